"""Losses and detections of detectors in two stages, from their outputs.

The first stage, ``outputs["rpn"]``, holds by level ``objectness`` ``[b, n_l]``,
``box_codes`` ``[b, n_l, 4]`` and ``anchors`` ``[n_l, 4]``, and in training ``rows``,
``matched`` and ``weight`` ``[b, n]`` of the anchors drawn. The second,
``outputs["roi"]``, holds ``boxes`` ``[b, r, 4]``, ``valid`` ``[b, r]``,
``class_logits`` ``[b, r, classes + 1]``, 0 being the background, ``box_codes``
``[b, r, 4 (classes + 1)]`` and, in training, ``matched`` int ``[b, r]`` and ``weight``
``[b, r]`` of the proposals drawn.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from ...ops.box_losses import smooth_l1
from ...ops.boxes import decode_boxes, encode_boxes
from .one_stage import Kept, joined, suppressed

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BETA = 1 / 9


def losses(
    outputs: Mapping, target: Mapping, *, beta: float = BETA
) -> dict[str, jax.Array]:
    """The four losses of Faster R-CNN (Ren et al. 2015), means over the batch.

    Args:
      outputs: of the model while training, with what it has drawn.
      target: ``boxes`` ``[b, m, 4]``, ``classes`` int ``[b, m]``, ``valid`` ``[b, m]``.
      beta: of the losses of boxes; 0 as mmdetection has it.

    Returns:
      Scalars ``objectness``, ``proposal_box``, ``class``, ``box``.
    """
    return first_losses(outputs["rpn"], target, beta=beta) | second_losses(
        outputs["roi"], target, beta=beta
    )


def first_losses(
    rpn: Mapping, target: Mapping, *, beta: float = BETA
) -> dict[str, jax.Array]:
    """``objectness`` and ``proposal_box``, over the anchors drawn.

    Args:
      rpn: the first stage, with ``rows``, ``matched`` and ``weight`` of the anchors.
      target: ``boxes`` ``[b, m, 4]``.
      beta: of :func:`diffkd_jax.ops.box_losses.smooth_l1`.
    """
    anchors = joined(rpn["anchors"], 0)
    rows, matched, weight = (rpn[name] for name in ("rows", "matched", "weight"))
    logits = jnp.take_along_axis(joined(rpn["objectness"]), rows, 1)
    codes = jnp.take_along_axis(joined(rpn["box_codes"]), rows[..., None], 1)
    positive = (matched >= 0) & (weight > 0)
    wanted = encode_boxes(_own(target["boxes"], matched), anchors[rows])
    binary = optax.sigmoid_binary_cross_entropy(logits, positive.astype(logits.dtype))
    apart = jnp.where(positive[..., None], codes - wanted, 0)
    return {
        "objectness": _mean(binary, weight),
        "proposal_box": _mean(smooth_l1(apart, beta).sum(-1), weight),
    }


def second_losses(
    roi: Mapping, target: Mapping, *, beta: float = BETA
) -> dict[str, jax.Array]:
    """``class`` and ``box``, over the proposals drawn.

    Args:
      roi: the second stage.
      target: ``boxes`` ``[b, m, 4]``, ``classes`` int ``[b, m]``, ``valid`` ``[b, m]``.
      beta: of :func:`diffkd_jax.ops.box_losses.smooth_l1`.
    """
    matched, weight = roi["matched"], roi["weight"]
    logits, positive = roi["class_logits"], (matched >= 0) & (weight > 0)
    label = jnp.where(positive, _own(target["classes"], matched) + 1, 0)
    each = roi["box_codes"].reshape(*label.shape, -1, 4)
    codes = jnp.take_along_axis(each, label[..., None, None], 2)[:, :, 0]
    wanted = encode_boxes(_own(target["boxes"], matched), roi["boxes"], ROI_WEIGHTS)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    apart = jnp.where(positive[..., None], codes - wanted, 0)
    return {
        "class": _mean(nll, weight),
        "box": _mean(smooth_l1(apart, beta).sum(-1), weight),
    }


def _own(values: jax.Array, matched: jax.Array) -> jax.Array:
    """Of each row what belongs to its object; of the first one where it has none."""
    return jax.vmap(lambda x, row: x[jnp.maximum(row, 0)])(values, matched)


def _mean(values: jax.Array, weight: jax.Array) -> jax.Array:
    """Over all that was drawn for the batch, as the public code has both means."""
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1)


def detect(
    outputs: Mapping, size: jax.Array, kept: Kept, *, clamp_below: bool = False
) -> dict[str, jax.Array]:
    """Returns the best boxes of each image, suppressed within classes.

    Args:
      outputs: of a batch, with ``roi``.
      size: ints ``[b, 2]``, height and width of each picture in its canvas.
      kept: which; ``candidates`` are all proposals.
      clamp_below: of :func:`diffkd_jax.ops.boxes.decode_boxes`.

    Returns:
      As of :func:`diffkd_jax.tasks.detection.one_stage.detect`.
    """
    roi = outputs["roi"]

    def one(boxes, valid, logits, codes, size):
        classes = logits.shape[-1] - 1
        codes = codes.reshape(len(boxes), -1, 4)[:, 1:]
        found = decode_boxes(codes, boxes[:, None], ROI_WEIGHTS, clamp_below)
        scores = jax.nn.softmax(logits)[:, 1:].ravel()
        counts = (scores > kept.score) & jnp.repeat(valid, classes)
        label = jnp.tile(jnp.arange(classes, dtype=jnp.int32), len(boxes))
        ranked = jnp.where(counts, scores, -jnp.inf)
        return suppressed(found.reshape(-1, 4), ranked, label, size, kept)

    return jax.vmap(one)(
        roi["boxes"], roi["valid"], roi["class_logits"], roi["box_codes"], size
    )
