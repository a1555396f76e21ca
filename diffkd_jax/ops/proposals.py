"""Region proposals of one image, and sampling of anchors and proposals to train on."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

from . import assign
from .boxes import clip, decode_boxes, iou
from .nms import keep_mask

LEAST_SIDE = 1e-3


class Proposals(NamedTuple):
    """The boxes that the second stage is trained on.

    Attributes:
      boxes: ``[n, 4]``, in pixels of the input.
      matched: int32 ``[n]``, row of the assigned object, or -1.
      weight: float32 ``[n]``, 1, or 0 for rows that stay empty because too few boxes
        could be drawn.

    >>> boxes = jnp.array([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    >>> drawn = Proposals(boxes, jnp.array([0, -1]), jnp.array([1.0, 0.0]))
    >>> drawn.boxes[drawn.weight > 0].tolist()
    [[0.0, 0.0, 4.0, 4.0]]
    """

    boxes: Float[Array, "n 4"]
    matched: Int32[Array, " n"]
    weight: Float32[Array, " n"]


def propose(
    objectness: Mapping[str, Float[Array, " _"]],
    codes: Mapping[str, Float[Array, "_ 4"]],
    anchors: Mapping[str, Float[Array, "_ 4"] | Float[np.ndarray, "_ 4"]],
    size: Num[Array, "2"],
    *,
    before: int,
    after: int,
    threshold: float = 0.7,
    clamp_below: bool = False,
) -> tuple[Float[Array, "after 4"], Bool[Array, " after"]]:
    """Selects the best boxes of all levels, best first (Ren et al. 2015, section 3.3).

    The ``before`` best boxes of each level are decoded and clipped to the image. Boxes
    with a side below 1e-3 pixels are dropped. Then non-maximum suppression runs within
    each level.

    Args:
      objectness: ``[n_l]`` by level, logits.
      codes: ``[n_l, 4]`` by level, see :func:`diffkd_jax.ops.boxes.decode_boxes`.
      anchors: ``[n_l, 4]`` by level, in pixels.
      size: ``[2]``, height and width of the image in pixels; may be traced.
      before: largest number of boxes of each level that enter suppression.
      after: number of boxes after suppression, over all levels.
      threshold: IoU above which the lower-scored box is dropped.
      clamp_below: see :func:`diffkd_jax.ops.boxes.decode_boxes`.

    Returns:
      boxes: ``[after, 4]``, in pixels, without gradient; rows without a box are 0.
      valid: bool ``[after]``, false for rows without a box.

    >>> level = lambda *rows: {"p2": jnp.array(rows)}
    >>> boxes, valid = propose(level(0.0, 2.0), level([0.0] * 4, [0.0] * 4),
    ...     level([0.0, 0, 4, 4], [2.0, 0, 9, 4]), jnp.array([8, 8]), before=2, after=3)
    >>> boxes[0].tolist(), valid.tolist()
    ([2.0, 0.0, 8.0, 4.0], [True, True, False])
    """
    width = max(min(before, len(level)) for level in objectness.values())
    levels = []
    for name, logits in objectness.items():
        count = min(before, len(logits))
        logits, rows = jax.lax.top_k(jax.lax.stop_gradient(logits), count)
        box = decode_boxes(
            jax.lax.stop_gradient(codes[name])[rows],
            jnp.asarray(anchors[name])[rows],
            clamp_below=clamp_below,
        )
        # Padded to one size, so that a single loop serves all levels.
        free = width - count
        logits = jnp.pad(logits, (0, free), constant_values=-jnp.inf)
        levels.append((jnp.pad(clip(box, size), ((0, free), (0, 0))), logits))
    boxes, logits = (jnp.stack(x) for x in zip(*levels, strict=True))
    large = (boxes[..., 2:] - boxes[..., :2] >= LEAST_SIDE).all(-1)
    real = large & (logits > -jnp.inf)
    one_class = jnp.zeros(width, jnp.int32)
    suppress = lambda boxes, real: keep_mask(boxes, one_class, real, threshold)
    survivors = jax.vmap(suppress)(boxes, real).ravel()
    ranked = jnp.where(survivors, logits.ravel(), -jnp.inf)
    best, rows = jax.lax.top_k(ranked, min(after, len(ranked)))
    valid = best > -jnp.inf
    boxes = jnp.where(valid[:, None], boxes.reshape(-1, 4)[rows], 0)
    free = after - len(best)
    return jnp.pad(boxes, ((0, free), (0, 0))), jnp.pad(valid, (0, free))


def label_proposals(
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    truth: Float[Array, "m 4"],
    truth_valid: Bool[Array, " m"],
    *,
    high: float = 0.5,
    low: float = 0.5,
) -> tuple[Float[Array, "n+m 4"], Int32[Array, " n+m"]]:
    """Appends the objects to the proposals, and assigns an object to each of the boxes.

    Args:
      boxes: ``[n, 4]``, proposals in pixels.
      valid: ``[n]``, false for rows of padding.
      truth: ``[m, 4]``, boxes of the objects in pixels.
      truth_valid: ``[m]``, false for rows of padding.
      high: IoU from which a box is assigned to its best object.
      low: IoU below which a box is background.

    Returns:
      boxes: ``[n + m, 4]``, the objects last.
      matched: int32 ``[n + m]``: row of the object, -1 for background, -2 for padding
        and for an IoU between ``low`` and ``high``.

    >>> truth, yes = jnp.array([[0.0, 0.0, 4.0, 4.0]]), jnp.array([True])
    >>> label_proposals(truth + 9, yes, truth, yes)[1].tolist()
    [-1, 0]
    """
    boxes = jnp.concatenate([boxes, truth.astype(boxes.dtype)])
    matched = assign.match(iou(truth, boxes), truth_valid, high, low, False)
    real = jnp.concatenate([valid, truth_valid])
    return boxes, jnp.where(real, matched, assign.IGNORED)


def sample_proposals(
    key: Array,
    boxes: Float[Array, "n 4"],
    valid: Bool[Array, " n"],
    truth: Float[Array, "m 4"],
    truth_valid: Bool[Array, " m"],
    *,
    count: int = 512,
    positive_share: float = 0.25,
    high: float = 0.5,
    low: float = 0.5,
) -> Proposals:
    """Draws the boxes that the second stage is trained on, from proposals and objects.

    Args:
      key: random key; the draws depend on nothing else.
      boxes: ``[n, 4]``, proposals in pixels.
      valid: ``[n]``, false for rows of padding.
      truth: ``[m, 4]``, boxes of the objects in pixels.
      truth_valid: ``[m]``, false for rows of padding.
      count: number of boxes to draw, 1 or more.
      positive_share: largest share of ``count`` that is assigned to objects.
      high: IoU from which a box is assigned to its best object.
      low: IoU below which a box is background.

    Returns:
      ``count`` rows without gradient, those assigned to objects first. In rows left
      empty, boxes are 0 and matched is -1.

    >>> truth = jnp.array([[0.0, 0.0, 4.0, 4.0]])
    >>> yes = jnp.array([True])
    >>> drawn = sample_proposals(jax.random.key(0), truth + 9, yes, truth, yes, count=4)
    >>> drawn.matched.tolist(), drawn.weight.tolist()
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
    """The anchors that the first stage is trained on.

    Attributes:
      rows: int32 ``[n]``, rows of the anchors in ``[0, number of anchors)``.
      matched: int32 ``[n]``, row of the assigned object, or a negative number.
      weight: float32 ``[n]``, 1, or 0 for rows that stay empty because too few anchors
        could be drawn.

    >>> anchors = Anchors(jnp.array([7, 2]), jnp.array([0, -1]), jnp.array([1.0, 1.0]))
    >>> anchors.rows[anchors.matched >= 0].tolist()  # the anchors with an object
    [7]
    """

    rows: Int32[Array, " n"]
    matched: Int32[Array, " n"]
    weight: Float32[Array, " n"]


def sample_anchors(
    key: Array,
    anchors: Float[Array, "n 4"],
    truth: Float[Array, "m 4"],
    truth_valid: Bool[Array, " m"],
    *,
    count: int = 256,
    positive_share: float = 0.5,
    high: float = 0.7,
    low: float = 0.3,
    to_truth: float | None = None,
) -> Anchors:
    """Draws the anchors of one image that the first stage is trained on.

    Args:
      key: random key; the draws depend on nothing else.
      anchors: ``[n, 4]``, in pixels.
      truth: ``[m, 4]``, boxes of the objects in pixels.
      truth_valid: ``[m]``, false for rows of padding.
      count: number of anchors to draw.
      positive_share: largest share of ``count`` that is assigned to objects.
      high: IoU from which an anchor is positive.
      low: IoU below which an anchor is background.
      to_truth: see :func:`diffkd_jax.ops.assign.match`.

    Returns:
      ``count`` rows, those assigned to objects first.

    >>> truth, yes = jnp.array([[0.0, 0.0, 4.0, 4.0]]), jnp.array([True])
    >>> anchors = jnp.concatenate([truth, truth + 9])
    >>> sample_anchors(jax.random.key(0), anchors, truth, yes, count=2).rows.tolist()
    [0, 1]
    """
    quality = iou(truth, anchors)
    matched = assign.match(quality, truth_valid, high, low, True, to_truth)
    rows, weight = assign.sample(key, matched, count, positive_share)
    return Anchors(rows, matched[rows], weight)
