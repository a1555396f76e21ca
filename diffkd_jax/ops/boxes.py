"""Geometry of boxes ``x1 y1 x2 y2``, in pixels: areas, overlaps, codes.

Results and their gradients are finite for boxes without area too, since rows of padding
are such boxes.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

# Largest log of the factor by which a side grows, as in torchvision and mmdetection.
MAX_LOG_SIDE = float(np.log(1000 / 16))


def area(boxes: Num[Array, "*dims 4"]) -> Num[Array, "*dims"]:
    """Returns the areas ``[...]`` of boxes ``[..., 4]``, in square pixels.

    >>> area(jnp.array([1.0, 2.0, 3.0, 5.0])).item()
    6.0
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Float[Array, "m 4"], b: Float[Array, "n 4"]) -> Float[Array, "m n"]:
    """Computes the intersection over union of each pair of boxes.

    Args:
      a: ``[m, 4]``.
      b: ``[n, 4]``.

    Returns:
      ``[m, n]``, in [0, 1]; 0 for two boxes without area.

    >>> a = jnp.array([[0.0, 0.0, 2.0, 2.0]])
    >>> iou(a, jnp.array([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])).tolist()
    [[0.25, 0.0]]
    """
    shared, union = _overlap(a[:, None], b[None])
    return _ratio(shared, union)


def giou(
    a: Float[Array, "*dims 4"], b: Float[Array, "*dims 4"]
) -> Float[Array, "*dims"]:
    """Computes the generalised IoU of boxes, row by row (Rezatofighi et al. 2019).

    Args:
      a: ``[..., 4]``.
      b: ``[..., 4]``.

    Returns:
      ``[...]``, in (-1, 1]; 0 if both boxes are the same single point.

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
    """Returns the areas of intersection and of union."""
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., 2:], b[..., 2:])
    sides = jnp.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    return shared, area(a) + area(b) - shared


def _ratio(part: jax.Array, whole: jax.Array) -> jax.Array:
    """Divides, and returns 0 where the denominator is not above 0."""
    # Masking after the division would leave a gradient of NaN.
    positive = whole > 0
    return jnp.where(positive, part, 0) / jnp.where(positive, whole, 1)


def encode_boxes(
    boxes: Float[Array, "*dims 4"],
    anchors: Float[Array, "*dims 4"],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*dims 4"]:
    """Encodes boxes relative to anchors, as ``dx dy dw dh`` (Girshick et al. 2014).

    Args:
      boxes: ``[..., 4]``.
      anchors: ``[..., 4]``.
      weights: factors by which the four codes are multiplied.

    Returns:
      ``[..., 4]``; 0 if the box or the anchor has no area.

    >>> anchor = jnp.array([0.0, 0.0, 2.0, 2.0])
    >>> encode_boxes(jnp.array([1.0, 0.0, 3.0, 2.0]), anchor).tolist()
    [0.5, 0.0, 0.0, 0.0]
    """
    have_area = ((_sides(boxes) > 0) & (_sides(anchors) > 0)).all(-1, keepdims=True)
    boxes, anchors = (
        jnp.where(have_area, x, jnp.asarray([0, 0, 1, 1], x.dtype))
        for x in (boxes, anchors)
    )
    sides = _sides(anchors)
    shift = (_centre(boxes) - _centre(anchors)) / sides
    growth = jnp.log(_sides(boxes) / sides)
    codes = jnp.concatenate([shift, growth], -1)
    return codes * jnp.asarray(weights, codes.dtype)


def decode_boxes(
    codes: Float[Array, "*dims 4"],
    anchors: Float[Array, "*dims 4"],
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    clamp_below: bool = False,
) -> Float[Array, "*dims 4"]:
    """Decodes boxes from codes; the inverse of :func:`encode_boxes`.

    Args:
      codes: ``[..., 4]``.
      anchors: ``[..., 4]``.
      weights: the factors of :func:`encode_boxes`, by which the codes are divided.
      clamp_below: a decoded side is at most 1000 / 16 times the side of its anchor. If
        true, it is also at least 16 / 1000 times that side.

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


def encode_distances(
    boxes: Float[Array, "*dims 4"], anchors: Float[Array, "*dims 4"]
) -> Float[Array, "*dims 4"]:
    """Encodes boxes as distances from the anchors' centres to the four sides.

    Args:
      boxes: ``[..., 4]``.
      anchors: ``[..., 4]``, boxes with area: one stride around each point (FCOS, Tian
        et al. 2019).

    Returns:
      ``[..., 4]``, left, top, right and bottom distance in sides of the anchor;
      negative if the centre lies outside the box.

    >>> anchor = jnp.array([-4.0, -4.0, 4.0, 4.0])
    >>> encode_distances(jnp.array([-8.0, 0.0, 4.0, 16.0]), anchor).tolist()
    [1.0, 0.0, 0.5, 2.0]
    """
    sides, centre = _sides(anchors), _centre(anchors)
    low, high = (centre - boxes[..., :2]) / sides, (boxes[..., 2:] - centre) / sides
    return jnp.concatenate([low, high], -1)


def decode_distances(
    codes: Float[Array, "*dims 4"], anchors: Float[Array, "*dims 4"]
) -> Float[Array, "*dims 4"]:
    """Decodes boxes from distances; the inverse of :func:`encode_distances`.

    Args:
      codes: ``[..., 4]``, left, top, right and bottom distance in sides of the anchor.
      anchors: ``[..., 4]``.

    Returns:
      ``[..., 4]``.

    >>> anchor = jnp.array([-4.0, -4.0, 4.0, 4.0])
    >>> decode_distances(jnp.array([1.0, 0.0, 0.5, 2.0]), anchor).tolist()
    [-8.0, 0.0, 4.0, 16.0]
    """
    sides, centre = _sides(anchors), _centre(anchors)
    low, high = centre - codes[..., :2] * sides, centre + codes[..., 2:] * sides
    return jnp.concatenate([low, high], -1)


def clip(
    boxes: Float[Array, "*dims 4"], size: Num[Array, "2"] | Sequence[int]
) -> Float[Array, "*dims 4"]:
    """Clips boxes to the borders of the image.

    Args:
      boxes: ``[..., 4]``.
      size: ``[2]``, height and width in pixels; may be traced.

    Returns:
      ``[..., 4]``.

    >>> clip(jnp.array([-1.0, 2.0, 9.0, 9.0]), (5, 7)).tolist()
    [0.0, 2.0, 7.0, 5.0]
    """
    height, width = size[0], size[1]
    borders = jnp.stack([width, height, width, height]).astype(boxes.dtype)
    return jnp.clip(boxes, 0, borders)


def _sides(boxes: jax.Array) -> jax.Array:
    return boxes[..., 2:] - boxes[..., :2]


def _centre(boxes: jax.Array) -> jax.Array:
    return boxes[..., :2] + 0.5 * _sides(boxes)
