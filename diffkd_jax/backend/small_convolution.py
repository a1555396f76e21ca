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

Padding = str | Sequence[tuple[int, int]]
NHWC = ("NHWC", "HWIO", "NHWC")
SUPPORTED = {"dimension_numbers", "rhs_dilation", "precision"}


def convolve(
    x: Num[Array, "..."],
    kernel: Num[Array, "..."],
    strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Num[Array, "..."]:
    """Convolves as ``lax.conv_general_dilated``, with a product where a CPU is slow.

    XLA's fast convolutions on CPU need a map that is at least as large as the kernel.
    For smaller maps this function multiplies patches and kernel. Pass it to
    ``flax.linen.Conv`` as ``conv_general_dilated``.

    Args:
      x: ``[b, h, w, c]``, maps.
      kernel: ``[kh, kw, c, d]``.
      strides: strides of rows and columns.
      padding: rows and columns added before and after, or "SAME" or "VALID".
      **options: further arguments of ``jax.lax.conv_general_dilated``. With others than
        precision and dilation of the kernel, or with other axes, the convolution is
        XLA's.

    >>> x, kernel = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 5))
    >>> options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    >>> convolve(x, kernel, (1, 1), "SAME", **options)[0, 0, 0, 0].item()
    12.0
    """
    if jax.default_backend() == "cpu" and is_small(x.shape, kernel.shape, options):
        dilation = options.get("rhs_dilation") or (1, 1)
        if isinstance(padding, str):
            spans = _spans(kernel.shape, dilation)
            padding = jax.lax.padtype_to_pads(x.shape[1:3], spans, strides, padding)
        sizes = x.shape[1:3], kernel.shape[:2], strides, padding, dilation
        rows, columns = (_met_elements(*axis) for axis in zip(*sizes, strict=True))
        if rows and columns:
            padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
            return _product(padded, kernel, rows, columns, options.get("precision"))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def is_small(
    shape: Sequence[int], kernel: Sequence[int], options: Mapping[str, Any]
) -> bool:
    """Returns whether a map has fewer rows or columns than its kernel.

    A dilated kernel counts with its elements only: XLA is fast if just its span is
    larger. Convolutions with unusual options are never small.

    Args:
      shape: ``[b, h, w, c]``, shape of the maps.
      kernel: ``[kh, kw, c, d]``, shape of the kernel.
      options: options of :func:`convolve`.

    >>> is_small((8, 2, 2, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC})
    True
    >>> is_small((8, 3, 3, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC})
    False
    """
    # Sizes come first: this is called for each convolution, and few maps are small.
    if len(shape) != 4 or (kernel[0] <= shape[1] and kernel[1] <= shape[2]):
        return False
    usual = {"feature_group_count": 1, "lhs_dilation": (1, 1)}
    other = {k: v for k, v in options.items() if k not in SUPPORTED and v is not None}
    if any(usual.get(k) != v for k, v in other.items()):
        return False
    numbers = options.get("dimension_numbers")
    axes, last = (
        jax.lax.conv_dimension_numbers(shape, kernel, n) for n in (numbers, NHWC)
    )
    return axes == last


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


def _spans(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Returns the rows and columns from one end of a dilated kernel to the other."""
    return [d * (k - 1) + 1 for k, d in zip(kernel[:2], dilation, strict=True)]


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
