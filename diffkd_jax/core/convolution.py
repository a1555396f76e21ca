"""Convolutions of maps that are smaller than their kernel."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Padding = str | Sequence[tuple[int, int]]


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> jax.Array:
    """``jax.lax.conv_general_dilated``, by a product where a CPU would be slow.

    XLA's fast convolutions for a CPU want a map at least as large as the kernel; one of
    3x3 on a map of 2x2 takes a hundred times as long as the product of its patches
    (``experiments/bench``). To be given to ``flax.linen.Conv``.

    Args:
      x: maps ``[b, h, w, c]``.
      kernel: ``[kh, kw, c, d]``.
      strides: of height and width.
      padding: of height and width, or "SAME" or "VALID".
      **options: of ``jax.lax.conv_general_dilated``, channels last.

    >>> x, kernel = jnp.ones((1, 2, 2, 3)), jnp.ones((3, 3, 3, 5))
    >>> options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    >>> conv_general_dilated(x, kernel, (1, 1), "SAME", **options)[0, 0, 0, 0].item()
    12.0
    """
    dilation = options.get("rhs_dilation") or (1, 1)
    if jax.default_backend() != "cpu" or not is_small(
        x.shape, kernel.shape, dilation, options.get("feature_group_count", 1)
    ):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return by_patches(
        x, kernel, strides, padding, dilation, precision=options.get("precision")
    )


def is_small(
    shape: Sequence[int], kernel: Sequence[int], dilation: Sequence[int], groups: int
) -> bool:
    """Whether a map has fewer rows or columns than its kernel spans.

    >>> is_small((8, 2, 2, 3), (3, 3, 3, 5), (1, 1), 1)
    True
    >>> is_small((8, 3, 3, 3), (3, 3, 3, 5), (1, 1), 1)
    False
    """
    spans = _spans(kernel, dilation)
    return groups == 1 and (spans[0] > shape[1] or spans[1] > shape[2])


def by_patches(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    precision: Any = None,
) -> jax.Array:
    """One product of patches and kernel, without what of the kernel meets no map.

    Args:
      x, kernel, strides, padding: of :func:`conv_general_dilated`.
      dilation: of the kernel.
      precision: of the product.
    """
    if isinstance(padding, str):
        spans = _spans(kernel.shape, dilation)
        padding = jax.lax.padtype_to_pads(x.shape[1:3], spans, strides, padding)
    sizes = zip(x.shape[1:3], kernel.shape[:2], strides, padding, dilation, strict=True)
    rows, columns = (_met(*axis) for axis in sizes)
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    patches = [padded[:, i, j] for i in rows.values() for j in columns.values()]
    kernels = [kernel[i, j] for i in rows for j in columns]
    return jax.lax.dot_general(
        jnp.concatenate(patches, -1),
        jnp.concatenate(kernels),
        (((3,), (0,)), ((), ())),
        precision=precision,
    )


def _spans(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Rows and columns from one end of a kernel of this shape to the other."""
    return [d * (k - 1) + 1 for k, d in zip(kernel[:2], dilation, strict=True)]


def _met(
    side: int, reach: int, step: int, padding: tuple[int, int], dilation: int
) -> dict[int, slice]:
    """Places of a kernel along an axis that meet the map, and where each is padded."""
    low, high = padding
    last = side + low + high - dilation * (reach - 1) - 1
    met = {}
    for place in range(reach):
        first = place * dilation
        there = range(first, first + last + 1, step)
        if any(low <= row < low + side for row in there):
            met[place] = slice(there.start, there.stop, step)
    return met
