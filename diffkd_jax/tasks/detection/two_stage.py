"""Losses and detections of detectors in two stages: Faster R-CNN.

The model's outputs hold two dicts. ``rpn``, the first stage, holds by level
``objectness`` ``[b, n_l]``, ``box_codes`` ``[b, n_l, 4]`` and ``anchors`` ``[n_l, 4]``.
In training it also holds ``rows``, ``matched`` and ``weight``, all ``[b, n]``: the rows
of the anchors that were sampled, their objects (-1 for none) and their weights.

``roi``, the second stage, holds ``boxes`` ``[b, r, 4]`` and ``valid`` ``[b, r]`` of the
proposals, ``class_logits`` ``[b, r, classes + 1]``, where class 0 is the background,
and ``box_codes`` ``[b, r, 4 (classes + 1)]``. In training the proposals are sampled,
and ``roi`` also holds their ``matched`` int ``[b, r]`` and ``weight`` ``[b, r]``.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num, PyTree

from ...ops.box_losses import smooth_l1
from ...ops.boxes import decode_boxes, encode_boxes
from ..task import Outputs
from .one_stage import join_levels
from .selection import Selection, suppress

ROI_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BETA = 1 / 9


def losses(
    outputs: Outputs, target: Mapping[str, PyTree], *, beta: float = BETA
) -> dict[str, Float[Array, ""]]:
    """Computes the four losses of Faster R-CNN (Ren et al. 2015).

    Args:
      outputs: outputs of the model in training, with the samples of both stages, see
        the module.
      target: ``boxes`` float ``[b, m, 4]`` in pixels, ``classes`` int ``[b, m]`` and
        ``valid`` bool ``[b, m]``, false for rows of padding.
      beta: the ``beta`` of the smooth L1 loss of boxes; 0 gives L1, as in mmdetection.

    Returns:
      ``objectness``, ``proposal_box``, ``class`` and ``box``: scalars, means over the
      samples of the batch.

    >>> box = jnp.array([[[0.0, 0.0, 8.0, 8.0]]])
    >>> sample = {"matched": jnp.array([[0]]), "weight": jnp.ones((1, 1))}
    >>> rpn = {"objectness": {"p3": jnp.zeros((1, 1))}, "anchors": {"p3": box[0]},
    ...     "box_codes": {"p3": jnp.zeros((1, 1, 4))}, "rows": jnp.array([[0]])}
    >>> roi = {"boxes": box, "class_logits": jnp.zeros((1, 1, 3)),
    ...     "box_codes": jnp.zeros((1, 1, 12))}
    >>> target = {"boxes": box, "classes": jnp.array([[1]])}
    >>> parts = losses({"rpn": rpn | sample, "roi": roi | sample}, target)
    >>> {name: round(float(x), 3) for name, x in parts.items()}
    {'objectness': 0.693, 'proposal_box': 0.0, 'class': 1.099, 'box': 0.0}
    """
    return first_losses(outputs["rpn"], target, beta=beta) | second_losses(
        outputs["roi"], target, beta=beta
    )


def first_losses(
    rpn: Mapping[str, PyTree], target: Mapping[str, PyTree], *, beta: float = BETA
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of the first stage, over the sampled anchors.

    Args:
      rpn: outputs of the first stage, with samples, see the module.
      target: ``boxes`` float ``[b, m, 4]``, in pixels.
      beta: see :func:`diffkd_jax.ops.box_losses.smooth_l1`.

    Returns:
      ``objectness`` and ``proposal_box``, scalars.

    >>> box = jnp.array([[[0.0, 0.0, 8.0, 8.0]]])
    >>> rpn = {"objectness": {"p3": jnp.zeros((1, 1))}, "anchors": {"p3": box[0]},
    ...     "box_codes": {"p3": jnp.ones((1, 1, 4))}, "rows": jnp.array([[0]]),
    ...     "matched": jnp.array([[0]]), "weight": jnp.ones((1, 1))}
    >>> first_losses(rpn, {"boxes": box}, beta=0.0)["proposal_box"].item()
    4.0
    """
    anchors = join_levels(rpn["anchors"], 0)
    rows, matched, weight = (rpn[name] for name in ("rows", "matched", "weight"))
    logits = jnp.take_along_axis(join_levels(rpn["objectness"]), rows, 1)
    codes = jnp.take_along_axis(join_levels(rpn["box_codes"]), rows[..., None], 1)
    positive = (matched >= 0) & (weight > 0)
    expected = encode_boxes(_take_objects(target["boxes"], matched), anchors[rows])
    cross_entropy = optax.sigmoid_binary_cross_entropy(
        logits, positive.astype(logits.dtype)
    )
    errors = jnp.where(positive[..., None], codes - expected, 0)
    return {
        "objectness": _weighted_mean(cross_entropy, weight),
        "proposal_box": _weighted_mean(smooth_l1(errors, beta).sum(-1), weight),
    }


def second_losses(
    roi: Mapping[str, PyTree], target: Mapping[str, PyTree], *, beta: float = BETA
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of the second stage, over the sampled proposals.

    Args:
      roi: outputs of the second stage, with samples, see the module.
      target: ``boxes`` float ``[b, m, 4]`` in pixels, ``classes`` int ``[b, m]``.
      beta: see :func:`diffkd_jax.ops.box_losses.smooth_l1`.

    Returns:
      ``class`` and ``box``, scalars.

    >>> box = jnp.array([[[0.0, 0.0, 8.0, 8.0]]])
    >>> roi = {"boxes": box, "class_logits": jnp.zeros((1, 1, 3)),
    ...     "box_codes": jnp.ones((1, 1, 12)), "matched": jnp.array([[0]]),
    ...     "weight": jnp.ones((1, 1))}
    >>> target = {"boxes": box, "classes": jnp.array([[1]])}
    >>> second_losses(roi, target, beta=0.0)["box"].item()
    4.0
    """
    matched, weight = roi["matched"], roi["weight"]
    logits, positive = roi["class_logits"], (matched >= 0) & (weight > 0)
    label = jnp.where(positive, _take_objects(target["classes"], matched) + 1, 0)
    codes_by_class = roi["box_codes"].reshape(*label.shape, -1, 4)
    codes = jnp.take_along_axis(codes_by_class, label[..., None, None], 2)[:, :, 0]
    boxes = _take_objects(target["boxes"], matched)
    expected = encode_boxes(boxes, roi["boxes"], ROI_WEIGHTS)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    errors = jnp.where(positive[..., None], codes - expected, 0)
    return {
        "class": _weighted_mean(nll, weight),
        "box": _weighted_mean(smooth_l1(errors, beta).sum(-1), weight),
    }


def _take_objects(
    values: Num[Array, "b m *dims"], matched: Int[Array, "b n"]
) -> Num[Array, "b n *dims"]:
    """Returns the value of the object of each row; rows without one get the first."""
    return jax.vmap(lambda x, row: x[jnp.maximum(row, 0)])(values, matched)


def _weighted_mean(
    values: Float[Array, "b n"], weight: Float[Array, "b n"]
) -> Float[Array, ""]:
    """Returns the mean over all samples of the batch, as the public code does."""
    return (weight * values).sum() / jnp.maximum(weight.sum(), 1)


def detect(
    outputs: Outputs,
    size: Int[Array, "b 2"],
    selection: Selection,
    *,
    clamp_below: bool = False,
) -> dict[str, Num[Array, "b ..."]]:
    """Returns the detections of a detector in two stages, best first.

    The score of a box is the probability of its class. Boxes are clipped to their
    image, and non-maximum suppression is done within each class.

    Args:
      outputs: outputs of the model, with ``roi``, see the module.
      size: ``[b, 2]``, height and width of each image inside its padded array, in
        pixels.
      selection: rule by which detections are selected. Its ``candidates`` is not read;
        all proposals are candidates.
      clamp_below: see :func:`diffkd_jax.ops.boxes.decode_boxes`.

    Returns:
      As for :func:`diffkd_jax.tasks.detection.one_stage.detect`.

    >>> roi = {"boxes": jnp.array([[[0.0, 0.0, 8.0, 8.0]]]),
    ...     "class_logits": jnp.array([[[0.0, 0.0, 2.0]]]),
    ...     "box_codes": jnp.zeros((1, 1, 12)), "valid": jnp.array([[True]])}
    >>> rule = Selection(0.5, 0, 0.5, 2)
    >>> detections = detect({"roi": roi}, jnp.array([[8, 8]]), rule)
    >>> detections["valid"].tolist(), detections["classes"].tolist()
    ([[True, False]], [[1, 0]])
    """
    roi = outputs["roi"]

    def detect_in_image(
        boxes: jax.Array,
        valid: jax.Array,
        logits: jax.Array,
        codes: jax.Array,
        size: jax.Array,
    ) -> dict[str, jax.Array]:
        classes = logits.shape[-1] - 1
        codes = codes.reshape(len(boxes), -1, 4)[:, 1:]
        decoded = decode_boxes(codes, boxes[:, None], ROI_WEIGHTS, clamp_below)
        scores = jax.nn.softmax(logits)[:, 1:].ravel()
        is_candidate = (scores > selection.score) & jnp.repeat(valid, classes)
        label = jnp.tile(jnp.arange(classes, dtype=jnp.int32), len(boxes))
        ranks = jnp.where(is_candidate, scores, -jnp.inf)
        return suppress(decoded.reshape(-1, 4), ranks, label, size, selection)

    return jax.vmap(detect_in_image)(
        roi["boxes"], roi["valid"], roi["class_logits"], roi["box_codes"], size
    )
