"""Convolutions of maps that are smaller than their kernel, as matrix products on CPU.

Costs: memory for the patches, and products with zeros outside the map
(``cifar_resnet50-cifar_mobilenet_v2`` takes 4.62 GFLOP for each image and not 4.22).

Gains: a 3x3 convolution with 512 channels on 64 maps of 2x2 takes 5.3 ms and not 723
ms. The whole step of that pair takes 295 ms and not 1,459 ms (8 images), by
``GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONPATH=. python
experiments/bench/cost_parts.py --time``.

Delete when: XLA's convolutions on CPU are as fast for such maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

Pair = tuple[int, int]


def is_small(shape: Sequence[int], kernel: Sequence[int]) -> bool:
    """Returns whether a map has fewer rows or columns than its kernel.

    A dilated kernel counts with its elements only: XLA is fast if just its span is
    larger.

    Args:
      shape: ``[b, h, w, c]``, shape of the maps.
      kernel: ``[kh, kw, c, d]``, shape of the kernel.

    >>> is_small((8, 2, 2, 3), (3, 3, 3, 5)), is_small((8, 3, 3, 3), (3, 3, 3, 5))
    (True, False)
    """
    return kernel[0] > shape[1] or kernel[1] > shape[2]


def multiply_patches(
    x: Num[Array, "b h w c"],
    kernel: Num[Array, "kh kw c d"],
    strides: Sequence[int],
    padding: Sequence[Pair],
    dilation: Sequence[int],
    precision: Any = None,
) -> Num[Array, "b _ _ d"]:
    """Convolves by one matrix product of patches and kernel.

    Args:
      x: ``[b, h, w, c]``, maps.
      kernel: ``[kh, kw, c, d]``.
      strides: strides of rows and columns.
      padding: rows and columns added before and after.
      dilation: distance of the kernel's elements, in rows and columns.
      precision: precision of the product, as in ``jax.lax``.

    >>> x, kernel = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 5))
    >>> same = [(1, 1), (1, 1)]
    >>> multiply_patches(x, kernel, (1, 1), same, (1, 1))[0, 0, 0, 0].item()
    12.0
    """
    sizes = x.shape[1:3], kernel.shape[:2], strides, padding, dilation
    rows, columns = (_met_elements(*axis) for axis in zip(*sizes, strict=True))
    if not rows or not columns:  # an empty result, or zeros
        return jax.lax.conv_general_dilated(
            *(x, kernel, strides, padding),
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    return _product(padded, kernel, rows, columns, precision)


def _product(
    padded: jax.Array,
    kernel: jax.Array,
    rows: Mapping[int, slice],
    columns: Mapping[int, slice],
    precision: Any,
) -> jax.Array:
    """Multiplies patches and kernel; elements that never meet the map are left out."""
    patches = [padded[:, i, j] for i in rows.values() for j in columns.values()]
    kernels = [kernel[i, j] for i in rows for j in columns]
    return jax.lax.dot_general(
        jnp.concatenate(patches, -1),
        jnp.concatenate(kernels),
        (((3,), (0,)), ((), ())),
        precision=precision,
    )


def _met_elements(
    side: int, reach: int, step: int, padding: tuple[int, int], dilation: int
) -> dict[int, slice]:
    """Returns the elements of a kernel that meet the map along an axis.

    Returns:
      For each such element the slice of the padded map that it reads.
    """
    low, high = padding
    last = side + low + high - dilation * (reach - 1) - 1
    slices = {}
    for element in range(reach):
        first = element * dilation
        rows = range(first, first + last + 1, step)
        if any(low <= row < low + side for row in rows):
            slices[element] = slice(rows.start, rows.stop, step)
    return slices
