"""What a region proposal network proposes for one picture, and what is trained on."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from . import assign
from .boxes import clip, decode_boxes, iou
from .nms import keep_mask

LEAST_SIDE = 1e-3


class Proposals(NamedTuple):
    """Boxes drawn to train on.

    Attributes:
      boxes: ``[n, 4]``, pixels of the input.
      matched: int32 ``[n]``, row of the object that a box stands for, or -1.
      weight: float32 ``[n]``, 1, or 0 where there was nothing left to draw.
    """

    boxes: jax.Array
    matched: jax.Array
    weight: jax.Array


def propose(
    objectness: Mapping[str, jax.Array],
    codes: Mapping[str, jax.Array],
    anchors: Mapping[str, jax.Array | np.ndarray],
    size: jax.Array,
    *,
    before: int,
    after: int,
    threshold: float = 0.7,
    clamp_below: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The best boxes of all levels, best first (Ren et al. 2015, section 3.3).

    Of each level the ``before`` best are decoded, clipped to the picture, dropped where
    a side is below 1e-3 pixels, and suppressed among themselves.

    Args:
      objectness: logits ``[n_l]`` by level.
      codes: ``[n_l, 4]`` by level.
      anchors: ``[n_l, 4]`` by level, pixels.
      size: height and width of the picture ``[2]``, pixels; may be traced.
      before: boxes of a level before suppression, at most.
      after: boxes after it, of all levels.
      threshold: an IoU above it removes the worse box.
      clamp_below: of :func:`diffkd_jax.ops.boxes.decode_boxes`.

    Returns:
      boxes: ``[after, 4]``, pixels, all 0 where nothing was left; without gradient.
      valid: bool ``[after]``.

    >>> level = lambda *rows: {"p2": jnp.array(rows)}
    >>> boxes, valid = propose(level(0.0, 2.0), level([0.0] * 4, [0.0] * 4),
    ...     level([0.0, 0, 4, 4], [2.0, 0, 9, 4]), (8, 8), before=2, after=3)
    >>> boxes[0].tolist(), valid.tolist()
    ([2.0, 0.0, 8.0, 4.0], [True, True, False])
    """
    most = max(min(before, len(level)) for level in objectness.values())
    found = []
    for name, logits in objectness.items():
        count = min(before, len(logits))
        logits, rows = jax.lax.top_k(jax.lax.stop_gradient(logits), count)
        box = decode_boxes(
            jax.lax.stop_gradient(codes[name])[rows],
            jnp.asarray(anchors[name])[rows],
            clamp_below=clamp_below,
        )
        # Padded to one size, so that one loop suppresses all levels.
        free = most - count
        logits = jnp.pad(logits, (0, free), constant_values=-jnp.inf)
        found.append((jnp.pad(clip(box, size), ((0, free), (0, 0))), logits))
    boxes, logits = (jnp.stack(x) for x in zip(*found, strict=True))
    large = (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(-1)
    real = large & (logits > -jnp.inf)
    alike = jnp.zeros(most, jnp.int32)
    suppress = lambda boxes, real: keep_mask(boxes, alike, real, threshold)
    kept = jax.vmap(suppress)(boxes, real).ravel()
    ranked = jnp.where(kept, logits.ravel(), -jnp.inf)
    best, rows = jax.lax.top_k(ranked, min(after, len(ranked)))
    valid = best > -jnp.inf
    boxes = jnp.where(valid[:, None], boxes.reshape(-1, 4)[rows], 0)
    free = after - len(best)
    return jnp.pad(boxes, ((0, free), (0, 0))), jnp.pad(valid, (0, free))


def label_proposals(
    boxes: jax.Array,
    valid: jax.Array,
    truth: jax.Array,
    truth_valid: jax.Array,
    *,
    high: float = 0.5,
    low: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
    """Proposals and the objects themselves, and the object that each stands for.

    Args:
      boxes: ``[n, 4]``, pixels.
      valid: bool ``[n]``.
      truth: ``[m, 4]``, pixels.
      truth_valid: bool ``[m]``.
      high: IoU from which a box stands for its best object.
      low: IoU below which it is background.

    Returns:
      boxes: ``[n + m, 4]``, the objects last.
      matched: int32 ``[n + m]``: row of the object, -1 for background, -2 for rows of
        padding and for IoUs between the two.
    """
    boxes = jnp.concatenate([boxes, truth.astype(boxes.dtype)])
    matched = assign.match(iou(truth, boxes), truth_valid, high, low, False)
    real = jnp.concatenate([valid, truth_valid])
    return boxes, jnp.where(real, matched, assign.IGNORED)


def sample_proposals(
    key: jax.Array,
    boxes: jax.Array,
    valid: jax.Array,
    truth: jax.Array,
    truth_valid: jax.Array,
    *,
    count: int = 512,
    positive_share: float = 0.25,
    high: float = 0.5,
    low: float = 0.5,
) -> Proposals:
    """Proposals to train the second stage on, drawn after adding the objects.

    Args:
      key: random key; the draws depend on nothing else.
      boxes, valid, truth, truth_valid, high, low: of :func:`label_proposals`.
      count: of boxes, 1 or more.
      positive_share: at most this share of ``count`` stands for objects.

    Returns:
      :class:`Proposals` of ``count`` rows, those that stand for objects first, without
      gradient; where nothing was left to draw, boxes are 0 and matched is -1.

    >>> truth = jnp.array([[0.0, 0.0, 4.0, 4.0]])
    >>> yes = jnp.array([True])
    >>> found = sample_proposals(jax.random.key(0), truth + 9, yes, truth, yes, count=4)
    >>> found.matched.tolist(), found.weight.tolist()
    ([0, -1, -1, -1], [1.0, 1.0, 0.0, 0.0])
    """
    boxes, matched = label_proposals(
        jax.lax.stop_gradient(boxes), valid, truth, truth_valid, high=high, low=low
    )
    rows, weight = assign.sample(key, matched, count, positive_share)
    drawn = weight > 0
    return Proposals(
        boxes=jnp.where(drawn[:, None], boxes[rows], 0),
        matched=jnp.where(drawn, matched[rows], assign.BACKGROUND),
        weight=weight,
    )


class Anchors(NamedTuple):
    """Anchors drawn to train on.

    Attributes:
      rows: int32 ``[n]``.
      matched: int32 ``[n]``, row of the object that an anchor stands for, or below 0.
      weight: float32 ``[n]``, 1, or 0 where there was nothing left to draw.
    """

    rows: jax.Array
    matched: jax.Array
    weight: jax.Array


def sample_anchors(
    key: jax.Array,
    anchors: jax.Array,
    truth: jax.Array,
    truth_valid: jax.Array,
    *,
    count: int = 256,
    positive_share: float = 0.5,
    high: float = 0.7,
    low: float = 0.3,
    to_truth: float | None = None,
) -> Anchors:
    """Anchors of one picture to train the first stage on.

    Args:
      key: random key; the draws depend on nothing else.
      anchors: ``[n, 4]``, pixels.
      truth: ``[m, 4]``, likewise.
      truth_valid: bool ``[m]``.
      count: of anchors.
      positive_share: at most this share stands for objects.
      high, low, to_truth: of :func:`diffkd_jax.ops.assign.match`.
    """
    quality = iou(truth, anchors)
    matched = assign.match(quality, truth_valid, high, low, True, to_truth)
    rows, weight = assign.sample(key, matched, count, positive_share)
    return Anchors(rows, matched[rows], weight)
