"""The padding of a convolution as numbers, for forms that do not take it as a word."""

from collections.abc import Sequence

import jax

Padding = str | Sequence[tuple[int, int]]


def count_padding(
    shape: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> Sequence[tuple[int, int]]:
    """Returns the numbers of rows and columns added before and after a map.

    Args:
      shape: ``[b, h, w, c]``, shape of the maps.
      kernel: ``[kh, kw, c, d]``, shape of the kernel.
      strides: strides of rows and columns.
      padding: these numbers, which are returned as they are, or "SAME" or "VALID".
      dilation: distance of the kernel's elements, in rows and columns.

    >>> count_padding((1, 8, 8, 2), (3, 3, 2, 4), (2, 2), "SAME", (1, 1))
    [(0, 1), (0, 1)]
    """
    if not isinstance(padding, str):
        return padding
    spans = [d * (k - 1) + 1 for k, d in zip(kernel[:2], dilation, strict=True)]
    return jax.lax.padtype_to_pads(shape[1:3], spans, strides, padding)
