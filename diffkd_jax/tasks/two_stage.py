"""Losses and detections of detectors in two stages, from their outputs.

The first stage, ``outputs["rpn"]``, holds by level ``objectness`` ``[b, n_l]``,
``box_codes`` ``[b, n_l, 4]`` and ``anchors`` ``[n_l, 4]``. The second,
``outputs["roi"]``, holds ``boxes`` ``[b, r, 4]``, ``valid`` ``[b, r]``,
``class_logits`` ``[b, r, classes + 1]``, 0 being the background, ``box_codes``
``[b, r, 4 (classes + 1)]`` and, in training, ``matched`` int ``[b, r]`` and ``weight``
``[b, r]`` of the proposals drawn.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ..ops import assign
from ..ops.box_losses import smooth_l1
from ..ops.boxes import clip, decode, encode, iou
from ..ops.nms import greedy

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BETA = 1 / 9
LEAST_SIDE = 1e-2


class Draws(NamedTuple):
    """Anchors of each picture to train on.

    Attributes:
      rows: int ``[b, n]``.
      matched: int ``[b, n]``, row of the object, or below 0 for background.
      weight: float ``[b, n]``, 1, or 0 where there was nothing left to draw.
    """

    rows: jax.Array
    matched: jax.Array
    weight: jax.Array


def losses(
    outputs: Mapping,
    batch: Mapping,
    key: jax.Array,
    *,
    count: int = 256,
    beta: float = BETA,
    to_truth: float | None = None,
) -> dict[str, jax.Array]:
    """The four losses of Faster R-CNN (Ren et al. 2015), means over the batch.

    Args:
      outputs: of the model.
      batch: ``target`` with ``boxes``, ``classes`` and ``valid``.
      key: random key of the anchors drawn.
      count: of anchors a picture, half of them positive at most.
      beta: of the losses of boxes; 0 as mmdetection has it.
      to_truth: of :func:`diffkd_jax.ops.assign.match`; 0.3 as mmdetection has it.

    Returns:
      Scalars ``task/objectness``, ``task/proposals``, ``task/class``, ``task/box``.
    """
    target = batch["target"]
    first, anchors = first_stage(outputs["rpn"])
    draws = draw(key, anchors, target, count=count, to_truth=to_truth)
    return first_losses(first, anchors, target, draws, beta=beta) | second_losses(
        outputs["roi"], target, beta=beta
    )


def first_stage(rpn: Mapping) -> tuple[dict[str, jax.Array], jax.Array]:
    """``objectness`` ``[b, n]``, ``box_codes`` ``[b, n, 4]``, and anchors ``[n, 4]``.

    >>> level = {"p2": jnp.zeros((1, 6)), "p3": jnp.zeros((1, 3))}
    >>> boxes = {name: jnp.zeros((x.shape[1], 4)) for name, x in level.items()}
    >>> codes = {name: x[None] for name, x in boxes.items()}
    >>> rpn = {"objectness": level, "box_codes": codes, "anchors": boxes}
    >>> first_stage(rpn)[0]["box_codes"].shape
    (1, 9, 4)
    """
    levels = sorted(rpn["objectness"])
    join = lambda name, axis: jnp.concatenate([rpn[name][k] for k in levels], axis)
    found = {name: join(name, 1) for name in ("objectness", "box_codes")}
    return found, join("anchors", 0)


def draw(
    key: jax.Array,
    anchors: jax.Array,
    target: Mapping,
    *,
    count: int = 256,
    positive_share: float = 0.5,
    high: float = 0.7,
    low: float = 0.3,
    to_truth: float | None = None,
) -> Draws:
    """Anchors of each picture to train the first stage on.

    Args:
      key: random key; the draws depend on nothing else.
      anchors: ``[n, 4]``, pixels.
      target: ``boxes`` ``[b, m, 4]`` and ``valid`` ``[b, m]``.
      count: of anchors a picture.
      positive_share: at most this share stands for objects.
      high, low, to_truth: of :func:`diffkd_jax.ops.assign.match`.
    """

    def one(key, boxes, valid):
        quality = iou(boxes, anchors)
        matched = assign.match(quality, valid, high, low, True, to_truth)
        rows, weight = assign.sample(key, matched, count, positive_share)
        return Draws(rows, matched[rows], weight)

    keys = jax.random.split(key, len(target["boxes"]))
    return jax.vmap(one)(keys, target["boxes"], target["valid"])


def first_losses(
    first: Mapping,
    anchors: jax.Array,
    target: Mapping,
    draws: Draws,
    *,
    beta: float = BETA,
) -> dict[str, jax.Array]:
    """``task/objectness`` and ``task/proposals``, over the anchors drawn.

    Args:
      first, anchors: from :func:`first_stage`.
      target: ``boxes`` ``[b, m, 4]``.
      draws: from :func:`draw`.
      beta: of :func:`diffkd_jax.ops.box_losses.smooth_l1`.
    """
    logits = jnp.take_along_axis(first["objectness"], draws.rows, 1)
    codes = jnp.take_along_axis(first["box_codes"], draws.rows[..., None], 1)
    positive = (draws.matched >= 0) & (draws.weight > 0)
    wanted = encode(_own(target["boxes"], draws.matched), anchors[draws.rows])
    binary = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    apart = jnp.where(positive[..., None], codes - wanted, 0)
    return {
        "task/objectness": _mean(binary, draws.weight),
        "task/proposals": _mean(smooth_l1(apart, beta).sum(-1), draws.weight),
    }


def second_losses(
    roi: Mapping, target: Mapping, *, beta: float = BETA
) -> dict[str, jax.Array]:
    """``task/class`` and ``task/box``, over the proposals drawn.

    Where none were drawn, as in evaluation, over all of them.

    Args:
      roi: the second stage.
      target: ``boxes`` ``[b, m, 4]``, ``classes`` int ``[b, m]``, ``valid`` ``[b, m]``.
      beta: of :func:`diffkd_jax.ops.box_losses.smooth_l1`.
    """
    if "matched" in roi:
        matched, weight = roi["matched"], roi["weight"]
    else:
        quality = jax.vmap(iou)(target["boxes"], roi["boxes"])
        match = lambda quality, valid: assign.match(quality, valid, 0.5, 0.5, False)
        matched = jax.vmap(match)(quality, target["valid"])
        weight = roi["valid"].astype(jnp.float32)
    logits, positive = roi["class_logits"], (matched >= 0) & (weight > 0)
    label = jnp.where(positive, _own(target["classes"], matched) + 1, 0)
    each = roi["box_codes"].reshape(*label.shape, -1, 4)
    codes = jnp.take_along_axis(each, label[..., None, None], 2)[:, :, 0]
    wanted = encode(_own(target["boxes"], matched), roi["boxes"], ROI_WEIGHTS)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    apart = jnp.where(positive[..., None], codes - wanted, 0)
    return {
        "task/class": _mean(nll, weight),
        "task/box": _mean(smooth_l1(apart, beta).sum(-1), weight),
    }


def _own(values: jax.Array, matched: jax.Array) -> jax.Array:
    """Of each row what belongs to its object; of the first one where it has none."""
    return jax.vmap(lambda x, row: x[jnp.maximum(row, 0)])(values, matched)


def _mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Over all that was drawn for the batch, as the public code has both means."""
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1)


def detections(
    roi: Mapping,
    size: jax.Array,
    *,
    score: float = 0.05,
    threshold: float = 0.5,
    count: int = 100,
    clamp_below: bool = False,
) -> dict[str, jax.Array]:
    """The best boxes of each picture, suppressed within classes.

    Args:
      roi: the second stage.
      size: height and width of each picture ``[b, 2]``, pixels of the input.
      score: probabilities above it count.
      threshold: an IoU above it removes the worse box.
      count: how many are kept at most.
      clamp_below: of :func:`diffkd_jax.ops.boxes.decode`.

    Returns:
      ``boxes`` ``[b, count, 4]`` in pixels of the input, ``scores`` ``[b, count]``,
      ``classes`` int32 ``[b, count]`` from 0, ``valid`` bool ``[b, count]``; best
      first, 0 where nothing was left.
    """

    def one(boxes, valid, logits, codes, size):
        classes = logits.shape[-1] - 1
        codes = codes.reshape(len(boxes), -1, 4)[:, 1:]
        found = decode(codes, boxes[:, None], ROI_WEIGHTS, clamp_below)
        found = clip(found, size).reshape(-1, 4)
        scores = jax.nn.softmax(logits)[:, 1:].ravel()
        large = (found[:, 2:] - found[:, :2] >= LEAST_SIDE).all(-1)
        counts = (scores > score) & large & jnp.repeat(valid, classes)
        label = jnp.tile(jnp.arange(classes, dtype=jnp.int32), len(boxes))
        ranked = jnp.where(counts, scores, -jnp.inf)
        rows, kept = greedy(found, ranked, label, threshold, count)
        return {
            "boxes": jnp.where(kept[:, None], found[rows], 0),
            "scores": jnp.where(kept, scores[rows], 0),
            "classes": jnp.where(kept, label[rows], 0),
            "valid": kept,
        }

    return jax.vmap(one)(
        roi["boxes"], roi["valid"], roi["class_logits"], roi["box_codes"], size
    )
