"""Losses and detections of detectors in one stage: RetinaNet and FCOS.

The outputs of a model are dicts by level: ``class_logits`` ``[b, n, classes]``,
``box_codes`` ``[b, n, 4]``, ``anchors`` ``[n, 4]``, and for FCOS also ``centreness``
``[b, n]``. Boxes are ``x1 y1 x2 y2`` in pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num, PyTree

from ...ops.assign import assign_fcos, match
from ...ops.box_losses import focal
from ...ops.boxes import (
    decode_boxes,
    decode_distances,
    encode_boxes,
    encode_distances,
    giou,
    iou,
)
from ..task import Outputs
from .selection import Selection, suppress


def join_levels(
    levels: Mapping[str, Num[Array, "..."] | Num[np.ndarray, "..."]], axis: int = 1
) -> Num[Array, "..."]:
    """Concatenates the arrays of all levels.

    Args:
      levels: arrays by level, equal in all axes but one.
      axis: axis along which they are joined.

    >>> join_levels({"p3": jnp.ones((2, 6, 4)), "p4": jnp.ones((2, 3, 4))}).shape
    (2, 9, 4)
    """
    return jnp.concatenate(list(levels.values()), axis)


def retinanet_losses(
    outputs: Outputs,
    target: Mapping[str, PyTree],
    *,
    high: float = 0.5,
    low: float = 0.4,
    by_batch: bool = False,
    to_truth: float | None = None,
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of RetinaNet (Lin et al. 2017).

    These are the focal loss of the class logits, over all anchors that are not ignored,
    and the L1 loss of the box codes, over the anchors that are assigned to an object.

    Args:
      outputs: outputs of the model, see the module.
      target: ``boxes`` float ``[b, m, 4]`` in pixels, ``classes`` int ``[b, m]`` and
        ``valid`` bool ``[b, m]``, false for rows of padding.
      high: IoU from which an anchor is assigned to an object. The best anchors of an
        object are assigned at any IoU.
      low: IoU below which an anchor is background. Anchors between ``low`` and ``high``
        are ignored.
      by_batch: the losses of each image are divided by a number of assigned anchors. If
        true, this is the mean number over the images of the batch, as in mmdetection.
        Otherwise it is the number of that image, as in torchvision. The number of an
        image counts as at least 1.
      to_truth: see :func:`diffkd_jax.ops.assign.match`.

    Returns:
      ``class`` and ``box``, scalars.

    >>> anchors = jnp.array([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0]])
    >>> outputs = {"anchors": {"p3": anchors},
    ...     "class_logits": {"p3": jnp.zeros((1, 2, 3))},
    ...     "box_codes": {"p3": jnp.full((1, 2, 4), 0.5)}}
    >>> target = {"boxes": anchors[None, :1], "classes": jnp.array([[2]]),
    ...     "valid": jnp.array([[True]])}
    >>> retinanet_losses(outputs, target)["box"].item()
    2.0
    """
    anchors = join_levels(outputs["anchors"], 0)

    def image_losses(
        logits: jax.Array,
        codes: jax.Array,
        boxes: jax.Array,
        classes: jax.Array,
        valid: jax.Array,
    ) -> tuple[jax.Array, ...]:
        matched = match(iou(boxes, anchors), valid, high, low, True, to_truth)
        positive, row = matched >= 0, jnp.maximum(matched, 0)
        expected = jax.nn.one_hot(classes[row], logits.shape[-1]) * positive[:, None]
        focal_losses = focal(logits, expected).sum(-1)
        class_loss = jnp.where(matched == -2, 0.0, focal_losses).sum()
        # Anchors without an object get their own box as a target: the logarithm in the
        # encoding needs boxes with area.
        boxes = jnp.where(positive[:, None], boxes[row], anchors)
        errors = jnp.abs(codes - encode_boxes(boxes, anchors))
        box_loss = jnp.where(positive[:, None], errors, 0.0).sum()
        return class_loss, box_loss, jnp.maximum(positive.sum(), 1)

    class_loss, box_loss, count = _map_images(image_losses, outputs, target)
    if by_batch:
        count = count.mean()
    return {"class": (class_loss / count).mean(), "box": (box_loss / count).mean()}


def fcos_losses(
    outputs: Outputs, target: Mapping[str, PyTree], *, radius: float = 1.5
) -> dict[str, Float[Array, ""]]:
    """Computes the losses of FCOS (Tian et al. 2019).

    These are the focal loss of the classes of all points, and for points with an object
    the GIoU loss of their boxes and the cross-entropy of their centreness. Each sum is
    divided by the number of points with an object in the whole batch, at least 1.

    Args:
      outputs: outputs of the model, with ``centreness``, see the module.
      target: see :func:`retinanet_losses`.
      radius: largest distance of a point from the centre of its object along each axis,
        in strides.

    Returns:
      ``class``, ``box`` and ``centreness``, scalars.

    >>> outputs = {"anchors": {"p3": jnp.array([[0.0, 0.0, 8.0, 8.0]])},
    ...     "class_logits": {"p3": jnp.zeros((1, 1, 3))},
    ...     "box_codes": {"p3": jnp.full((1, 1, 4), 0.5)},
    ...     "centreness": {"p3": jnp.zeros((1, 1))}}
    >>> target = {"boxes": jnp.array([[[0.0, 0.0, 8.0, 8.0]]]),
    ...     "classes": jnp.array([[2]]), "valid": jnp.array([[True]])}
    >>> round(fcos_losses(outputs, target)["centreness"].item(), 4)
    0.6931
    """
    levels = list(outputs["anchors"].values())
    anchors = jnp.concatenate(levels)

    def image_losses(
        logits: jax.Array,
        codes: jax.Array,
        boxes: jax.Array,
        classes: jax.Array,
        valid: jax.Array,
        centreness: jax.Array,
    ) -> tuple[jax.Array, ...]:
        matched = assign_fcos(boxes, valid, levels, radius=radius)
        positive, row = matched >= 0, jnp.maximum(matched, 0)
        expected = jax.nn.one_hot(classes[row], logits.shape[-1]) * positive[:, None]
        # Points without an object get their own anchor as box and prediction, so that
        # all values and gradients are finite.
        boxes = jnp.where(positive[:, None], boxes[row], anchors)
        decoded = decode_distances(codes, anchors)
        predicted = jnp.where(positive[:, None], decoded, boxes)
        box_losses = jnp.where(positive, 1.0 - giou(predicted, boxes), 0.0)
        expected_centreness = _centreness(encode_distances(boxes, anchors))
        cross_entropy = optax.sigmoid_binary_cross_entropy(
            centreness, expected_centreness
        )
        return (
            focal(logits, expected).sum(),
            box_losses.sum(),
            jnp.where(positive, cross_entropy, 0.0).sum(),
            positive.sum(),
        )

    *sums, count = _map_images(image_losses, outputs, target)
    total = jnp.maximum(count.sum(), 1)
    names = ("class", "box", "centreness")
    return {name: x.sum() / total for name, x in zip(names, sums, strict=True)}


def _centreness(distances: Float[Array, "*dims 4"]) -> Float[Array, "*dims"]:
    """Computes how central points are in their boxes, from 0 to 1 for the centre.

    The distances to left, top, right and bottom are all positive.

    >>> float(_centreness(jnp.array([1.0, 1.0, 4.0, 1.0])))
    0.5
    """
    left, top, right, bottom = jnp.moveaxis(distances, -1, 0)
    horizontal = jnp.minimum(left, right) / jnp.maximum(left, right)
    vertical = jnp.minimum(top, bottom) / jnp.maximum(top, bottom)
    return jnp.sqrt(horizontal * vertical)


def _map_images(
    image_losses: Callable[..., tuple[jax.Array, ...]],
    outputs: Outputs,
    target: Mapping[str, PyTree],
) -> tuple[Num[Array, " b"], ...]:
    """Calls a function for each image, with its joined outputs and its target."""
    arguments = [
        join_levels(outputs["class_logits"]),
        join_levels(outputs["box_codes"]),
    ]
    arguments += [target[name] for name in ("boxes", "classes", "valid")]
    if "centreness" in outputs:
        arguments.append(join_levels(outputs["centreness"]))
    return jax.vmap(image_losses)(*arguments)


def detect(
    outputs: Outputs,
    size: Int[Array, "b 2"],
    selection: Selection,
    *,
    clamp_below: bool = False,
) -> dict[str, Num[Array, "b ..."]]:
    """Returns the detections of a detector in one stage, best first.

    The score of a box is the probability of its class. For FCOS it is the square root
    of that probability times the centreness. Boxes are clipped to their image, and
    non-maximum suppression is done within each class.

    Args:
      outputs: outputs of the model, see the module.
      size: ``[b, 2]``, height and width of each image inside its padded array, in
        pixels.
      selection: rule by which detections are selected.
      clamp_below: see :func:`diffkd_jax.ops.boxes.decode_boxes`; not read for FCOS.

    Returns:
      ``boxes`` ``[b, most, 4]``, ``scores`` ``[b, most]``, ``classes`` int32
      ``[b, most]`` and ``valid`` bool ``[b, most]``, where ``most`` is that of the
      selection. Rows without a detection are zero.

    >>> outputs = {"anchors": {"p3": jnp.array([[0.0, 0.0, 8.0, 8.0]])},
    ...     "class_logits": {"p3": jnp.array([[[0.0, 2.0]]])},
    ...     "box_codes": {"p3": jnp.zeros((1, 1, 4))}}
    >>> detections = detect(outputs, jnp.array([[8, 8]]), Selection(0.6, 10, 0.5, 2))
    >>> detections["valid"].tolist(), detections["classes"].tolist()
    ([[True, False]], [[1, 0]])
    """
    is_fcos = "centreness" in outputs
    names = ["class_logits", "box_codes", *(["centreness"] if is_fcos else [])]
    levels = [
        (outputs["anchors"][level], *(outputs[name][level] for name in names))
        for level in outputs["anchors"]
    ]

    decode = (
        decode_distances if is_fcos else partial(decode_boxes, clamp_below=clamp_below)
    )

    def detect_in_image(
        levels: list[tuple[PyTree, ...]], size: jax.Array
    ) -> dict[str, jax.Array]:
        candidates = [
            _candidates(*level, selection=selection, decode=decode) for level in levels
        ]
        boxes, scores, classes = (
            jnp.concatenate(x) for x in zip(*candidates, strict=True)
        )
        # Boxes are ranked by the logarithms of their scores: in float32, scores close
        # to 1 would be equal.
        return suppress(boxes, scores, classes, size, selection, jnp.exp)

    axes = [(None, *(0 for _ in names)) for _ in levels]
    return jax.vmap(detect_in_image, in_axes=(axes, 0))(levels, size)


def _candidates(
    anchors: Float[np.ndarray, "n 4"] | Float[Array, "n 4"],
    logits: Float[Array, "n classes"],
    codes: Float[Array, "n 4"],
    centreness: Float[Array, " n"] | None = None,
    *,
    selection: Selection,
    decode: Callable[[jax.Array, jax.Array], jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns boxes, log scores (-inf without a candidate) and classes of one level."""
    classes = logits.shape[-1]
    score = jax.nn.log_sigmoid(logits)
    if centreness is not None:
        score = (score + jax.nn.log_sigmoid(centreness)[:, None]) / 2
    score = jnp.where(score > jnp.log(selection.score), score, -jnp.inf).reshape(-1)
    score, cells = jax.lax.top_k(score, min(selection.candidates, score.size))
    row = cells // classes
    boxes = decode(codes[row], jnp.asarray(anchors)[row])
    return boxes, score, (cells % classes).astype(jnp.int32)
