"""Which object each anchor stands for, and which anchors are trained on.

All of one picture; over a batch by ``jax.vmap``, which keeps a batch on several devices
as it lies. Rows of objects that are not valid are padding.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .boxes import area

BACKGROUND = -1
IGNORED = -2


def match(
    quality: jax.Array,
    valid: jax.Array,
    high: float,
    low: float,
    low_quality: bool,
    to_truth: float | None = None,
) -> jax.Array:
    """The object that each anchor overlaps best, by two thresholds.

    Args:
      quality: IoU ``[m, n]`` of objects and anchors.
      valid: bool ``[m]``.
      high: from here on an anchor stands for its best object.
      low: below it an anchor is background; between the two it is ignored.
      low_quality: the best anchors of each object, ties with them too, stand for an
        object whatever their IoU: for their own best one, as in torchvision.
      to_truth: with ``low_quality``, the least IoU from which they stand for the object
        that they are best for, the later one where there are two, as in mmdetection.

    Returns:
      int32 ``[n]``: row of the object, -1 for background, -2 for ignored.

    >>> quality = jnp.array([[0.8, 0.45, 0.1], [0.0, 0.2, 0.3]])
    >>> match(quality, jnp.array([True, True]), 0.5, 0.4, True).tolist()
    [0, -2, 1]
    >>> match(quality, jnp.array([True, False]), 0.5, 0.4, True).tolist()
    [0, -2, -1]
    """
    # Else a row of padding would be best, with an IoU of 0, for every free anchor.
    quality = jnp.where(valid[:, None], quality, -1)
    best, found = quality.max(0), quality.argmax(0).astype(jnp.int32)
    matched = jnp.where(best < high, jnp.where(best < low, BACKGROUND, IGNORED), found)
    if low_quality:
        most = quality.max(1, keepdims=True)
        is_best = valid[:, None] & (quality == most)
        if to_truth is None:
            own = found
        else:
            is_best &= most >= to_truth
            own = (len(quality) - 1 - is_best[::-1].argmax(0)).astype(jnp.int32)
        matched = jnp.where(is_best.any(0), own, matched)
    return matched


def assign_fcos(
    boxes: jax.Array,
    valid: jax.Array,
    anchors: Sequence[np.ndarray | jax.Array],
    *,
    radius: float = 1.5,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> jax.Array:
    """The object that each point of FCOS stands for (Tian et al. 2019).

    A point stands for an object if it lies inside of it, within ``radius`` strides of
    its centre on both axes, and if the farthest side is as far as its level is for; for
    the smallest of several, the first of those as small.

    Args:
      boxes: ``[m, 4]``, pixels.
      valid: bool ``[m]``.
      anchors: by level, fine to coarse, ``[n_l, 4]``: boxes of side stride around the
        points.
      radius: strides; infinite for no such rule.
      ranges: by level, least and greatest distance to the farthest side, exclusive, in
        strides; 4 to 8 if not given, but from 0 in the first and without end in the
        last.

    Returns:
      int32 ``[sum of n_l]``: row of the object, or -1 for background.

    Raises:
      ValueError: not one range a level.

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
    at = (points[:, :2] + points[:, 2:]) / 2
    centre = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    sides = jnp.concatenate([at - boxes[:, None, :2], boxes[:, None, 2:] - at], -1)
    farthest = sides.max(-1)
    fits = valid[:, None] & (sides.min(-1) > 0)
    fits &= jnp.abs(at - centre).max(-1) < radius * stride
    fits &= (farthest > limits[:, 0] * stride) & (farthest < limits[:, 1] * stride)
    # Not as a large number less the area, whose digits would not tell areas apart.
    size = jnp.where(fits, area(boxes)[:, None], jnp.inf)
    return jnp.where(fits.any(0), size.argmin(0), BACKGROUND).astype(jnp.int32)


def sample(
    key: jax.Array, matched: jax.Array, count: int, positive_share: float
) -> tuple[jax.Array, jax.Array]:
    """Anchors to train on, drawn without bias among positives and among background.

    Args:
      key: random key; the draws depend on nothing else.
      matched: int ``[n]``: >= 0 positive, -1 background, others never drawn.
      count: of anchors, 1 or more.
      positive_share: at most this share of ``count`` is positive; background fills up.

    Returns:
      rows: int32 ``[count]``, positives first.
      weight: float32 ``[count]``, 1, or 0 where there was nothing left to draw.

    >>> matched = jnp.array([-1, 0, -2, 3, 3])
    >>> rows, weight = sample(jax.random.key(0), matched, 4, 0.5)
    >>> sorted(rows[weight > 0].tolist())[0], weight.tolist()
    (0, [1.0, 1.0, 1.0, 0.0])
    """
    most = int(count * positive_share)
    noise = jax.random.uniform(key, matched.shape)

    def draw(which, k):
        value, rows = jax.lax.top_k(jnp.where(which, noise, -1.0), min(k, len(noise)))
        # So many rows even where there are fewer anchors.
        short = max(k - len(noise), 0)
        return jnp.pad(value >= 0, (0, short)), jnp.pad(rows, (0, short))

    drawn, positive = draw(matched >= 0, max(most, 1))
    positives = drawn[:most].sum()
    left, background = draw(matched == BACKGROUND, count)
    place = jnp.arange(count)
    is_positive, other = place < positives, jnp.maximum(place - positives, 0)
    first = positive[jnp.minimum(place, len(positive) - 1)]
    rows = jnp.where(is_positive, first, background[other])
    weight = is_positive | left[other]
    return jnp.where(weight, rows, 0).astype(jnp.int32), weight.astype(jnp.float32)
