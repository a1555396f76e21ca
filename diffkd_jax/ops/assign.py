"""Assignment of objects to anchors, and sampling of the anchors to train on.

Each function takes one image. Use ``jax.vmap`` for a batch; a batch that is split over
several devices then stays split. Rows of objects that are not valid are padding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from .boxes import area

BACKGROUND = -1
IGNORED = -2


def match(
    quality: Float[Array, "m n"],
    valid: Bool[Array, " m"],
    high: float,
    low: float,
    low_quality: bool,
    to_truth: float | None = None,
) -> Int32[Array, " n"]:
    """Assigns to each anchor an object, the background or nothing, by its IoU.

    Args:
      quality: ``[m, n]``, IoU of each object with each anchor.
      valid: ``[m]``, false for rows of padding.
      high: IoU from which an anchor is positive: it is assigned to the object with
        which it has the highest IoU.
      low: IoU below which an anchor is background. Anchors between ``low`` and ``high``
        are ignored.
      low_quality: if true, the anchor with the highest IoU of an object is positive
        even if this IoU is below ``high``. So are all anchors that tie with it.
      to_truth: the rule for an anchor that is the best one of an object by
        ``low_quality``. None, as in torchvision: the anchor takes the object with which
        it has the highest IoU. A number, as in mmdetection: the anchor takes the object
        whose best anchor it is (the last one, if there are several), but only if their
        IoU is at least ``to_truth``.

    Returns:
      int32 ``[n]``: row of the object, -1 for background, -2 for ignored.

    >>> quality = jnp.array([[0.8, 0.45, 0.1], [0.0, 0.2, 0.3]])
    >>> match(quality, jnp.array([True, True]), 0.5, 0.4, True).tolist()
    [0, -2, 1]
    >>> match(quality, jnp.array([True, False]), 0.5, 0.4, True).tolist()
    [0, -2, -1]
    """
    # A row of padding, with an IoU of 0, must not be the best object of an anchor that
    # overlaps none.
    quality = jnp.where(valid[:, None], quality, -1)
    best, nearest = quality.max(0), quality.argmax(0).astype(jnp.int32)
    below = jnp.where(best < low, BACKGROUND, IGNORED)
    matched = jnp.where(best < high, below, nearest)
    if low_quality:
        best_of_object = quality.max(1, keepdims=True)
        is_best = valid[:, None] & (quality == best_of_object)
        if to_truth is None:
            assigned = nearest
        else:
            is_best &= best_of_object >= to_truth
            last = len(quality) - 1 - is_best[::-1].argmax(0)
            assigned = last.astype(jnp.int32)
        matched = jnp.where(is_best.any(0), assigned, matched)
    return matched


def assign_fcos(
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    anchors: Sequence[Float[np.ndarray, "_ 4"] | Float[Array, "_ 4"]],
    *,
    radius: float = 1.5,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> Int32[Array, " n"]:
    """Assigns to each point of FCOS the object that it predicts (Tian et al. 2019).

    A point is assigned to an object if three conditions hold: it lies inside the
    object's box; it lies within ``radius`` strides of the box's centre on both axes;
    and its distance to the farthest side is in the range of its level. If several
    objects qualify, the smallest one is taken, and the first one of equally small
    objects.

    Args:
      boxes: ``[m, 4]``, boxes of the objects, in pixels.
      valid: ``[m]``, false for rows of padding.
      anchors: ``[n_l, 4]`` for each level from fine to coarse: boxes with sides of one
        stride around the points.
      radius: largest distance from the centre, in strides; infinite to switch the
        condition off.
      ranges: smallest and largest distance to the farthest side for each level, both
        exclusive, in strides. By default 4 to 8, but from 0 at the first level and
        without limit at the last.

    Returns:
      int32 ``[sum of n_l]``: row of the object, or -1 for background.

    Raises:
      ValueError: the number of ranges is not the number of levels.

    >>> point = jnp.array([[-4.0, -4.0, 4.0, 4.0]])
    >>> boxes = jnp.array([[-9.0, -9.0, 9.0, 9.0], [-8.0, -8.0, 8.0, 8.0]])
    >>> assign_fcos(boxes, jnp.array([True, True]), [point]).tolist()
    [1]
    """
    levels = len(anchors)
    if ranges is None:
        ranges = [
            (4.0 if level else 0.0, 8.0 if level < levels - 1 else np.inf)
            for level in range(levels)
        ]
    if len(ranges) != levels:
        raise ValueError(
            f"ranges: found {len(ranges)}, expected {levels}, one for each level"
        )
    counts = [len(level) for level in anchors]
    limits = np.repeat(np.asarray(ranges, np.float32), counts, 0)
    points = jnp.concatenate([jnp.asarray(level) for level in anchors])
    stride = points[:, 2] - points[:, 0]
    position = (points[:, :2] + points[:, 2:]) / 2
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    to_start = position - boxes[:, None, :2]
    sides = jnp.concatenate([to_start, boxes[:, None, 2:] - position], -1)
    farthest = sides.max(-1)
    fits = valid[:, None] & (sides.min(-1) > 0)
    fits &= jnp.abs(position - centre).max(-1) < radius * stride
    fits &= (farthest > limits[:, 0] * stride) & (farthest < limits[:, 1] * stride)
    # A large constant minus the area would round different areas to the same number.
    size = jnp.where(fits, area(boxes)[:, None], jnp.inf)
    return jnp.where(fits.any(0), size.argmin(0), BACKGROUND).astype(jnp.int32)


def sample(
    key: Array, matched: Int[Array, " n"], count: int, positive_share: float
) -> tuple[Int32[Array, " count"], Float32[Array, " count"]]:
    """Draws the anchors to train on, uniformly among positives and among background.

    Args:
      key: random key; the draws depend on nothing else.
      matched: ``[n]``: 0 or more for positives, -1 for background. Other values are
        never drawn.
      count: number of anchors to draw, 1 or more.
      positive_share: largest share of ``count`` that is positive, in [0, 1]. Background
        fills the rest.

    Returns:
      rows: int32 ``[count]``, rows of the drawn anchors, positives first.
      weight: float32 ``[count]``, 1, or 0 for rows left empty because too few anchors
        qualify.

    >>> matched = jnp.array([-1, 0, -2, 3, 3])
    >>> rows, weight = sample(jax.random.key(0), matched, 4, 0.5)
    >>> sorted(rows[weight > 0].tolist())[0], weight.tolist()
    (0, [1.0, 1.0, 1.0, 0.0])
    """
    max_positives = int(count * positive_share)
    noise = jax.random.uniform(key, matched.shape)

    def draw(which: Array, k: int) -> tuple[Array, Array]:
        value, rows = jax.lax.top_k(jnp.where(which, noise, -1.0), min(k, len(noise)))
        # The number of rows is fixed, even if there are fewer anchors.
        short = max(k - len(noise), 0)
        return jnp.pad(value >= 0, (0, short)), jnp.pad(rows, (0, short))

    drawn, positive = draw(matched >= 0, max(max_positives, 1))
    positives = drawn[:max_positives].sum()
    left, background = draw(matched == BACKGROUND, count)
    row = jnp.arange(count)
    is_positive, other = row < positives, jnp.maximum(row - positives, 0)
    first = positive[jnp.minimum(row, len(positive) - 1)]
    rows = jnp.where(is_positive, first, background[other])
    weight = is_positive | left[other]
    return jnp.where(weight, rows, 0).astype(jnp.int32), weight.astype(jnp.float32)
