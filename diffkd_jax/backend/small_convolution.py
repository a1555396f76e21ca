"""Convolutions of maps that are smaller than their kernel."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Padding = str | Sequence[tuple[int, int]]
NHWC = ("NHWC", "HWIO", "NHWC")
KNOWN = {"dimension_numbers", "rhs_dilation", "precision"}


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> jax.Array:
    """Convolves as ``jax.lax.conv_general_dilated``, by a product where a CPU is slow.

    XLA's fast convolutions for a CPU want a map at least as large as the kernel; one of
    3x3 on a map of 2x2 takes a hundred times as long as the product of its patches
    (``experiments/bench``). To be given to ``flax.linen.Conv``.

    Args:
      x: maps ``[b, h, w, c]``.
      kernel: ``[kh, kw, c, d]``.
      strides: of height and width.
      padding: of height and width, or "SAME" or "VALID".
      **options: of ``jax.lax.conv_general_dilated``; with others than dilation of the
        kernel and precision, or other axes, the convolution is XLA's.

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
        rows, columns = (_met(*axis) for axis in zip(*sizes, strict=True))
        if rows and columns:
            padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
            return _product(padded, kernel, rows, columns, options.get("precision"))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def is_small(
    shape: Sequence[int], kernel: Sequence[int], options: Mapping[str, Any]
) -> bool:
    """Whether a map has fewer rows or columns than its kernel, nothing else unusual.

    A dilated kernel counts as it is: XLA is fast where its span alone is larger.

    Args:
      shape: of the maps, ``[b, h, w, c]``.
      kernel: its shape, ``[kh, kw, c, d]``.
      options: of :func:`convolve`.

    >>> is_small((8, 2, 2, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC})
    True
    >>> is_small((8, 3, 3, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC})
    False
    """
    # Sizes first: every convolution is asked, and few maps are so small.
    if len(shape) != 4 or (kernel[0] <= shape[1] and kernel[1] <= shape[2]):
        return False
    usual = {"feature_group_count": 1, "lhs_dilation": (1, 1)}
    other = {k: v for k, v in options.items() if k not in KNOWN and v is not None}
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
    """One product of patches and kernel, without what of the kernel meets no map."""
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
