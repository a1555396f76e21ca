"""Anchors for one level of a feature pyramid, as constant arrays.

There is one row for each pair of a position and an anchor shape.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32


def grid_anchors(
    map_size: Sequence[int],
    image_size: Sequence[int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    rounded: bool = True,
) -> Float32[np.ndarray, "n 4"]:
    """Returns the anchors around the top left corner of each cell.

    Rows are ordered by position, then by ratio, then by size.

    Args:
      map_size: height and width of the feature map, in cells.
      image_size: height and width of the input, in pixels. The stride is the integer
        part of ``image_size / map_size``.
      sizes: square roots of the anchors' areas, in pixels; each above 0.
      ratios: height divided by width; each above 0.
      rounded: if true, corners are rounded to whole pixels relative to the cell, as in
        torchvision; if false, they are not, as in mmdetection.

    Returns:
      float32 ``[h * w * len(ratios) * len(sizes), 4]``, ``x1 y1 x2 y2`` in pixels.

    Raises:
      ValueError: the map has no cells or more cells than pixels, or a size or ratio is
        not above 0.

    >>> grid_anchors((1, 2), (8, 16), (8,), (1.0,)).tolist()
    [[-4.0, -4.0, 4.0, 4.0], [4.0, -4.0, 12.0, 4.0]]
    """
    for name, values in (("sizes", sizes), ("ratios", ratios)):
        if not len(values) or min(values) <= 0:
            raise ValueError(
                f"{name}: found {tuple(values)}, expected one or more, above 0"
            )
    tall = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    side = np.asarray(sizes, np.float32)
    height, width = (tall * side).ravel(), ((1 / tall) * side).ravel()
    around = np.stack([-width, -height, width, height], -1) / 2
    if rounded:
        around = np.round(around)
    corners = _corners(map_size, _stride(map_size, image_size))
    return (corners[:, None] + around).reshape(-1, 4).astype(np.float32)


def points(
    map_size: Sequence[int],
    image_size: Sequence[int],
    offset: float = 0.0,
    side: float | None = None,
) -> Float32[np.ndarray, "n 4"]:
    """Returns the points of FCOS as boxes, one stride wide and high, around each point.

    Args:
      map_size: height and width of the feature map, in cells.
      image_size: height and width of the input, in pixels.
      offset: distance of a point from the top left corner of its cell, in strides: 0 in
        torchvision, 0.5 in mmdetection.
      side: side of the boxes, in pixels. By default it is the stride, which follows
        from the two sizes; set it if the input is not a multiple of the stride.

    Returns:
      float32 ``[h * w, 4]``, ``x1 y1 x2 y2`` in pixels.

    Raises:
      ValueError: the map has no cells or more cells than pixels.

    >>> points((1, 2), (8, 16), offset=0.5).tolist()
    [[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]]
    """
    down, right = _stride(map_size, image_size)
    shift = np.array([right, down, right, down], np.float32)
    sides = shift if side is None else np.full(4, side, np.float32)
    around = sides * np.array([-0.5, -0.5, 0.5, 0.5], np.float32)
    corners = _corners(map_size, (down, right))
    return (corners + around + offset * shift).astype(np.float32)


def _stride(map_size: Sequence[int], image_size: Sequence[int]) -> tuple[int, int]:
    """Returns the vertical and the horizontal stride, in pixels."""
    (h, w), (height, width) = map_size, image_size
    if min(h, w) < 1 or h > height or w > width:
        raise ValueError(
            f"map_size: found {(h, w)}, expected 1 to {(height, width)}, the size of "
            "the input"
        )
    return height // h, width // w


def _corners(
    map_size: Sequence[int], stride: Sequence[int]
) -> Float32[np.ndarray, "cells 4"]:
    """Returns the top left corner of each cell, written twice, ``[h * w, 4]``."""
    (h, w), (down, right) = map_size, stride
    y, x = np.meshgrid(np.arange(h) * down, np.arange(w) * right, indexing="ij")
    return np.stack([x, y, x, y], -1).reshape(-1, 4).astype(np.float32)
