"""Anchors of one level of a pyramid, as constants, one row a position and anchor."""

from collections.abc import Sequence

import numpy as np


def grid_anchors(
    map_size: Sequence[int],
    image_size: Sequence[int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    rounded: bool = True,
) -> np.ndarray:
    """Anchors around the top left of each cell, position-major, then ratio, then size.

    Args:
      map_size: height and width of the map, cells.
      image_size: height and width of the input, pixels; the stride is the whole part
        of ``image_size / map_size``.
      sizes: square roots of the areas, pixels; above 0.
      ratios: height over width; above 0.
      rounded: corners around a cell to whole pixels, as torchvision has them, else
        left as they are, as mmdetection has them.

    Returns:
      float32 ``[h * w * len(ratios) * len(sizes), 4]``, ``x1 y1 x2 y2`` in pixels.

    Raises:
      ValueError: no cells, or more than pixels; sizes or ratios not above 0.

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
) -> np.ndarray:
    """Boxes with sides of one stride around the points of FCOS.

    Args:
      map_size: height and width of the map, cells.
      image_size: height and width of the input, pixels.
      offset: of the points from the top left of their cells, strides: 0 as torchvision
        has them, 0.5 as mmdetection has them.
      side: of the boxes, pixels, where the input is no multiple of the stride; else
        what the sizes of map and input make of it.

    Returns:
      float32 ``[h * w, 4]``, ``x1 y1 x2 y2`` in pixels.

    Raises:
      ValueError: no cells, or more than pixels.

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
    (h, w), (height, width) = map_size, image_size
    if min(h, w) < 1 or h > height or w > width:
        raise ValueError(
            f"map_size: found {(h, w)}, expected 1 to {(height, width)}, the size of "
            "the input"
        )
    return height // h, width // w


def _corners(map_size: Sequence[int], stride: Sequence[int]) -> np.ndarray:
    """The top left of each cell, twice, ``[h * w, 4]``."""
    (h, w), (down, right) = map_size, stride
    y, x = np.meshgrid(np.arange(h) * down, np.arange(w) * right, indexing="ij")
    return np.stack([x, y, x, y], -1).reshape(-1, 4).astype(np.float32)
