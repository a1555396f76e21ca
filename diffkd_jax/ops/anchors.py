"""Anchors of detectors, as constants made from the sizes of maps."""

from collections.abc import Sequence

import numpy as np


def grid_anchors(
    map_size: Sequence[int],
    image_size: Sequence[int],
    sizes: Sequence[float],
    ratios: Sequence[float],
    rounded: bool = True,
) -> np.ndarray:
    """Boxes around the top left corner of every position of one level's map.

    Args:
      map_size: ``(h, w)``.
      image_size: height and width of the input, pixels; positions are
        ``image_size // map_size`` apart.
      sizes: square roots of areas, pixels.
      ratios: of height to width.
      rounded: whether corners are at whole pixels, as in torchvision, or not, as in
        mmdet.

    Returns:
      float32 ``[h * w * A, 4]``, x1 y1 x2 y2 in pixels: by row, column, ratio, size.

    >>> grid_anchors((1, 2), (8, 16), [10], [1.0]).tolist()
    [[-5.0, -5.0, 5.0, 5.0], [3.0, -5.0, 13.0, 5.0]]
    """
    high = np.sqrt(np.asarray(ratios, np.float32))
    sides = np.asarray(sizes, np.float32)
    w, h = ((r[:, None] * sides).ravel() for r in (1 / high, high))
    cell: np.ndarray = np.stack([-w, -h, w, h], 1)
    cell = cell / 2
    cell = np.round(cell) if rounded else cell
    down, right = (n // m for n, m in zip(image_size, map_size, strict=True))
    y, x = np.meshgrid(
        np.arange(map_size[0]) * down, np.arange(map_size[1]) * right, indexing="ij"
    )
    shift = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + cell).reshape(-1, 4).astype(np.float32)
