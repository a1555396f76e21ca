"""RoIAlign (He et al. 2017): means of bilinear samples within boxes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from .boxes import area

# A box with sides of SIDE pixels is pooled from level LEVEL (Lin et al. 2017, eq. 1).
SIDE, LEVEL = 224, 4


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    scale: float,
    size: Sequence[int] = (7, 7),
    sampling_ratio: int = 2,
    aligned: bool = False,
    max_points: int = 4,
) -> Float[Array, "n down right c"]:
    """Pools boxes from the feature map of one image.

    Args:
      features: ``[h, w, c]``, floating.
      boxes: ``[n, 4]``, in pixels of the input; they receive no gradient.
      scale: side of a pixel in cells, the inverse of the stride.
      size: number of bins, vertically and horizontally.
      sampling_ratio: number of points of a bin along each axis. 0 chooses it for each
        box, so that points are at most one cell apart.
      aligned: if true, the value of a cell lies at its centre, so that boxes are exact,
        as in mmdetection. If false, it lies at its top left corner, which shifts boxes
        by half a cell; and boxes are at least one cell large. This is the rule of
        torchvision's detectors.
      max_points: if ``sampling_ratio`` is 0, the largest number of points of a bin
        along each axis. Boxes that need more are sampled more coarsely than in other
        implementations.

    Returns:
      ``[n, *size, c]`` in the dtype of the features, summed in float32 or wider. Points
      more than a cell outside the map contribute 0.

    Raises:
      ValueError: ``features`` is not a map, or a size or number of points is too small.

    >>> x = jnp.arange(16.0).reshape(4, 4, 1)
    >>> box = jnp.array([[0.0, 0.0, 4.0, 4.0]])
    >>> roi_align(x, box, scale=1.0, size=(1, 1), aligned=True).item()
    7.5
    """
    if features.ndim != 3:
        raise ValueError(f"features: found {features.shape}, expected [h, w, c]")
    h, w, channels = features.shape
    flat_map = _FlatMap(*(jnp.full(len(boxes), x) for x in (0, h, w)))
    grid = _Grid(tuple(size), sampling_ratio, aligned, max_points)
    return _pool(features.reshape(-1, channels), boxes * scale, flat_map, grid)


def pool_boxes(
    features: Mapping[str, Float[Array, "_ _ c"]],
    boxes: Float[Array, "n 4"],
    *,
    size: Sequence[int] = (7, 7),
    sampling_ratio: int = 2,
    aligned: bool = False,
    max_points: int = 4,
) -> Float[Array, "n down right c"]:
    """Pools features inside boxes, each box from the pyramid level that fits its area.

    Args:
      features: ``[h, w, c]`` for each level of one image, ``p2`` (stride 4) and so on,
        without gaps.
      boxes: ``[n, 4]``, in pixels of the input; they receive no gradient.
      size: number of bins, vertically and horizontally.
      sampling_ratio: number of points of a bin along each axis. 0 chooses it for each
        box, so that points are at most one cell apart.
      aligned: see :func:`roi_align`.
      max_points: see :func:`roi_align`.

    Returns:
      ``[n, *size, c]``.

    Raises:
      ValueError: as for :func:`roi_align`, or the names of the levels are not
        "p" and a number.

    >>> maps = {"p2": jnp.ones((8, 8, 3)), "p3": jnp.zeros((4, 4, 3))}
    >>> boxes = jnp.array([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 112.0, 112.0]])
    >>> pool_boxes(maps, boxes)[:, 0, 0, 0].tolist()
    [1.0, 0.0]
    """
    numbers = sorted(int(name[1:]) for name in features if name[1:].isdecimal())
    span = range(numbers[0], numbers[-1] + 1) if numbers else range(0)
    levels = [f"p{number}" for number in span]
    if not levels or set(levels) != set(features):
        raise ValueError(
            f"features: found {list(features)}, expected levels p2, p3 .. without gaps"
        )
    maps = [features[name] for name in levels]
    shape = [jnp.array([x.shape[axis] for x in maps]) for axis in (0, 1)]
    sizes = [x.shape[0] * x.shape[1] for x in maps]
    start = jnp.array([sum(sizes[:i]) for i in range(len(sizes))])
    flat = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    level = level_of(boxes, numbers[0], numbers[-1])
    row = level - numbers[0]
    flat_map = _FlatMap(start[row], shape[0][row], shape[1][row])
    scaled = boxes * (0.5 ** level.astype(boxes.dtype))[:, None]
    return _pool(
        flat, scaled, flat_map, _Grid(tuple(size), sampling_ratio, aligned, max_points)
    )


def level_of(boxes: Float[Array, "n 4"], first: int, last: int) -> Int32[Array, " n"]:
    """Returns the level that each box is pooled from (Lin et al. 2017, eq. 1).

    Args:
      boxes: ``[n, 4]``, in pixels.
      first: lowest level.
      last: highest level.

    Returns:
      int32 ``[n]``.

    >>> level_of(jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 0.0, 0.0]]), 2, 5)
    Array([4, 2], dtype=int32)
    """
    side = jnp.sqrt(jnp.maximum(area(boxes), 0))
    # The small constant keeps a box that lies exactly on a border on its level.
    level = jnp.floor(LEVEL + jnp.log2(side / SIDE) + 1e-6)
    return jnp.clip(level, first, last).astype(jnp.int32)


class _FlatMap(NamedTuple):
    """The map of each box within the flat array: first row and sides, ``[n]``."""

    start: jax.Array
    height: jax.Array
    width: jax.Array


class _Grid(NamedTuple):
    """The bins of a box and the points within them, see :func:`roi_align`."""

    size: tuple[int, ...]
    ratio: int
    aligned: bool
    max_points: int


class _Line(NamedTuple):
    """The sampling points of each box along one axis, ``[n, bins * points]``."""

    low: jax.Array
    high: jax.Array
    low_weight: jax.Array
    high_weight: jax.Array


def _pool(
    flat: jax.Array, boxes: jax.Array, flat_map: _FlatMap, grid: _Grid
) -> jax.Array:
    """Pools boxes, in cells, from rows ``[cells, c]`` of one map or of several."""
    if (
        len(grid.size) != 2
        or min(grid.size) < 1
        or grid.ratio < 0
        or grid.max_points < 1
    ):
        raise ValueError(
            f"size, sampling_ratio, max_points: found {grid.size}, {grid.ratio}, "
            f"{grid.max_points}, expected two sizes from 1, 0 or more, and 1 or more"
        )
    # The positions of the boxes are not trained through the pooled features.
    boxes = jax.lax.stop_gradient(boxes)
    points = grid.ratio or grid.max_points
    y = _line(boxes[:, 1], boxes[:, 3], flat_map.height, grid.size[0], grid)
    x = _line(boxes[:, 0], boxes[:, 2], flat_map.width, grid.size[1], grid)
    dtype = jnp.promote_types(flat.dtype, jnp.float32)
    total = jnp.zeros((), dtype)
    for row, down in ((y.low, y.low_weight), (y.high, y.high_weight)):
        for column, right in ((x.low, x.low_weight), (x.high, x.high_weight)):
            row_start = (flat_map.start + row.T * flat_map.width).T
            index = row_start[:, :, None] + column[:, None]
            weight = down[:, :, None] * right[:, None]
            value = flat.at[index].get(mode="promise_in_bounds").astype(dtype)
            total += value * weight[..., None].astype(dtype)
    bins = (len(boxes), grid.size[0], points, grid.size[1], points, flat.shape[-1])
    return total.reshape(bins).sum((2, 4)).astype(flat.dtype)


def _line(
    low: jax.Array, high: jax.Array, cells: jax.Array, bins: int, grid: _Grid
) -> _Line:
    """Places the points of one axis between cells, with a weight for each neighbour."""
    half = 0.5 if grid.aligned else 0.0
    low, high = low - half, high - half
    side = high - low if grid.aligned else jnp.maximum(high - low, 1)
    step = (side / bins)[:, None, None]
    if grid.ratio:
        points, count = grid.ratio, jnp.full_like(step, grid.ratio)
    else:
        points, count = grid.max_points, jnp.clip(jnp.ceil(step), 1, grid.max_points)
    nth = jnp.arange(points, dtype=low.dtype)
    begin = low[:, None, None] + jnp.arange(bins, dtype=low.dtype)[:, None] * step
    position = begin + (nth + 0.5) * step / count
    last = (cells - 1)[:, None, None]
    counts = (position >= -1) & (position <= last + 1) & (nth < count)
    if not grid.ratio:
        counts &= step > 0  # without cells there are no points
    weight = jnp.where(counts, 1 / count, 0)
    position = jnp.maximum(jnp.where(counts, position, 0), 0)
    first = jnp.minimum(jnp.floor(position).astype(jnp.int32), last)
    share = position - first  # beyond the last cell both neighbours are that cell
    line = _Line(
        first, jnp.minimum(first + 1, last), weight * (1 - share), weight * share
    )
    return _Line(*(x.reshape(len(low), -1) for x in line))
