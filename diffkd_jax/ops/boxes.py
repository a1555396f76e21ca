"""Boxes, ``x1 y1 x2 y2`` in pixels: areas, overlaps, codes against anchors.

Nothing here is NaN or infinite, nor is its gradient, for boxes without area, as rows of
padding are.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

# Sides grow by at most this factor, as the public detectors have it.
MAX_LOG_SIDE = float(np.log(1000 / 16))


def area(boxes: jax.Array) -> jax.Array:
    """Areas ``[...]`` of boxes ``[..., 4]``, square pixels.

    >>> area(jnp.array([1.0, 2.0, 3.0, 5.0])).item()
    6.0
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of every pair; 0 where both have no area.

    Args:
      a: ``[m, 4]``.
      b: ``[n, 4]``.

    Returns:
      ``[m, n]``, in [0, 1].

    >>> a = jnp.array([[0.0, 0.0, 2.0, 2.0]])
    >>> iou(a, jnp.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [[0.25, 0.0]]
    """
    shared, union = _overlap(a[:, None], b[None])
    return _ratio(shared, union)


def giou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised IoU of boxes in pairs (Rezatofighi et al. 2019).

    Args:
      a: ``[..., 4]``.
      b: ``[..., 4]``.

    Returns:
      ``[...]``, in (-1, 1]; 0 where neither has area and both are one point.

    >>> box = jnp.array([0.0, 0.0, 1.0, 1.0])
    >>> giou(box, box + jnp.array([1.0, 0.0, 1.0, 0.0])).item()
    0.0
    """
    shared, union = _overlap(a, b)
    low = jnp.minimum(a[..., :2], b[..., :2])
    high = jnp.maximum(a[..., 2:], b[..., 2:])
    hull = (high - low).prod(-1)
    return _ratio(shared, union) - _ratio(hull - union, hull)


def _overlap(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Areas of intersection and union."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    sides = jnp.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    return shared, area(a) + area(b) - shared


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    # Replaced before the division: its gradient would be NaN behind a later mask.
    some = whole > 0
    return jnp.where(some, part, 0) / jnp.where(some, whole, 1)


def encode_boxes(
    boxes: jax.Array,
    anchors: jax.Array,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
    """Codes ``dx dy dw dh`` of boxes against anchors (Girshick et al. 2014).

    Args:
      boxes: ``[..., 4]``.
      anchors: ``[..., 4]``.
      weights: factors of the four codes.

    Returns:
      ``[..., 4]``; 0 where box or anchor has no area.

    >>> anchor = jnp.array([0.0, 0.0, 2.0, 2.0])
    >>> encode_boxes(jnp.array([1.0, 0.0, 3.0, 2.0]), anchor).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    some = ((_sides(boxes) > 0) & (_sides(anchors) > 0)).all(-1, keepdims=True)
    boxes, anchors = (
        jnp.where(some, x, jnp.asarray([0, 0, 1, 1], x.dtype)) for x in (boxes, anchors)
    )
    sides = _sides(anchors)
    shift = (_centre(boxes) - _centre(anchors)) / sides
    growth = jnp.log(_sides(boxes) / sides)
    codes = jnp.concatenate([shift, growth], -1)
    return codes * jnp.asarray(weights, codes.dtype)


def decode_boxes(
    codes: jax.Array,
    anchors: jax.Array,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clamp_below: bool = False,
) -> jax.Array:
    """Boxes of codes, the inverse of :func:`encode_boxes`.

    Args:
      codes: ``[..., 4]``.
      anchors: ``[..., 4]``.
      weights: factors of the four codes.
      clamp_below: sides shrink by no more than 1000 / 16 either; they never grow by
        more.

    Returns:
      ``[..., 4]``.

    >>> anchor = jnp.array([0.0, 0.0, 2.0, 2.0])
    >>> decode_boxes(jnp.array([0.5, 0.0, 0.0, 9.0]), anchor).round(1)
    Array([  1. , -61.5,   3. ,  63.5], dtype=float32)
    """
    codes = codes / jnp.asarray(weights, codes.dtype)
    least = -MAX_LOG_SIDE if clamp_below else -jnp.inf
    sides = _sides(anchors)
    centre = codes[..., :2] * sides + _centre(anchors)
    half = jnp.exp(jnp.clip(codes[..., 2:], least, MAX_LOG_SIDE)) * sides * 0.5
    return jnp.concatenate([centre - half, centre + half], -1)


def encode_distances(boxes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Distances from the anchors' centres to the sides, in sides of the anchor.

    Args:
      boxes: ``[..., 4]``.
      anchors: ``[..., 4]``, with area: strides around points (FCOS, Tian et al. 2019).

    Returns:
      ``[..., 4]``, left top right bottom; negative where a centre is outside.

    >>> anchor = jnp.array([-4.0, -4.0, 4.0, 4.0])
    >>> encode_distances(jnp.array([-8.0, 0.0, 4.0, 16.0]), anchor).tolist()
    [1.0, 0.0, 0.5, 2.0]
    """
    sides, centre = _sides(anchors), _centre(anchors)
    low, high = (centre - boxes[..., :2]) / sides, (boxes[..., 2:] - centre) / sides
    return jnp.concatenate([low, high], -1)


def decode_distances(codes: jax.Array, anchors: jax.Array) -> jax.Array:
    """Boxes of distances, the inverse of :func:`encode_distances`.

    >>> anchor = jnp.array([-4.0, -4.0, 4.0, 4.0])
    >>> decode_distances(jnp.array([1.0, 0.0, 0.5, 2.0]), anchor).tolist()
    [-8.0, 0.0, 4.0, 16.0]
    """
    sides, centre = _sides(anchors), _centre(anchors)
    low, high = centre - codes[..., :2] * sides, centre + codes[..., 2:] * sides
    return jnp.concatenate([low, high], -1)


def clip(boxes: jax.Array, size: jax.Array | Sequence[int]) -> jax.Array:
    """Boxes cut off at the borders of the picture.

    Args:
      boxes: ``[..., 4]``.
      size: height and width ``[2]``, pixels; may be traced.

    >>> clip(jnp.array([-1.0, 2.0, 9.0, 9.0]), (5, 7)).tolist()
    [0.0, 2.0, 7.0, 5.0]
    """
    height, width = size[0], size[1]
    most = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, most)


def _sides(boxes: jax.Array) -> jax.Array:
    return boxes[..., 2:] - boxes[..., :2]


def _centre(boxes: jax.Array) -> jax.Array:
    return boxes[..., :2] + 0.5 * _sides(boxes)
