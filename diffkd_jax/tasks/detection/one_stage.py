"""Detection in one stage: losses and detections of RetinaNet and FCOS.

Outputs are dicts by level: ``class_logits`` ``[b, n, classes]``, ``box_codes``
``[b, n, 4]``, ``anchors`` ``[n, 4]``, and of FCOS ``centreness`` ``[b, n]``. Boxes are
x1 y1 x2 y2 in pixels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ...ops.assign import assign_fcos, match
from ...ops.box_losses import focal
from ...ops.boxes import (
    clip,
    decode_boxes,
    decode_distances,
    encode_boxes,
    encode_distances,
    giou,
    iou,
)
from ...ops.nms import greedy


class Kept(NamedTuple):
    """Which detections are kept.

    Attributes:
      score: that they are above, 0 to 1.
      candidates: the best of each level that are looked at.
      nms: intersection over union with a better one of their class that they are not
        above.
      most: of a picture.
      side: least height and width, pixels, after they are cut to the picture.
    """

    score: float
    candidates: int
    nms: float
    most: int
    side: float = 0.01


def joined(levels: Mapping[str, jax.Array], axis: int = 1) -> jax.Array:
    """All levels, one after the other."""
    return jnp.concatenate(list(levels.values()), axis)


def retinanet_losses(
    outputs: Mapping,
    target: Mapping,
    *,
    high: float = 0.5,
    low: float = 0.4,
    by_batch: bool = False,
    to_truth: float | None = None,
) -> dict[str, jax.Array]:
    """Focal loss of the classes of anchors, L1 of the codes of those with an object.

    Args:
      outputs: of a batch.
      target: ``boxes`` ``[b, m, 4]``, ``classes`` ints ``[b, m]``, ``valid`` bool.
      high: intersection over union from which an anchor has an object.
      low: under which it has none; in between it does not count.
      by_batch: divide by the anchors with an object in the whole batch (MMDetection),
        else those of each picture (torchvision), at least 1 a picture.
      to_truth: of :func:`diffkd_jax.ops.assign.match`.

    Returns:
      ``class`` and ``box``, scalars (Lin et al. 2017).
    """
    anchors = joined(outputs["anchors"], 0)

    def one(logits, codes, boxes, classes, valid):
        found = match(iou(boxes, anchors), valid, high, low, True, to_truth)
        positive, row = found >= 0, jnp.maximum(found, 0)
        wanted = jax.nn.one_hot(classes[row], logits.shape[-1]) * positive[:, None]
        of_class = jnp.where(found == -2, 0.0, focal(logits, wanted).sum(-1)).sum()
        # A box that is there in place of those that are not, before any logarithm.
        aim = encode_boxes(jnp.where(positive[:, None], boxes[row], anchors), anchors)
        of_box = jnp.where(positive[:, None], jnp.abs(codes - aim), 0.0).sum()
        return of_class, of_box, jnp.maximum(positive.sum(), 1)

    of_class, of_box, count = _each(one, outputs, target)
    if by_batch:
        count = count.mean()
    return {"class": (of_class / count).mean(), "box": (of_box / count).mean()}


def fcos_losses(
    outputs: Mapping, target: Mapping, *, radius: float = 1.5
) -> dict[str, jax.Array]:
    """Focal loss of the classes of points, GIoU and centreness of those with an object.

    All are divided by the points with an object in the whole batch, at least 1.

    Args:
      outputs: of a batch, with ``centreness``.
      target: see :func:`retinanet_losses`.
      radius: strides from the centre of an object that its points lie within.

    Returns:
      ``class``, ``box`` and ``centreness``, scalars (Tian et al. 2019).
    """
    levels = list(outputs["anchors"].values())
    anchors = jnp.concatenate(levels)

    def one(logits, codes, boxes, classes, valid, centreness):
        found = assign_fcos(boxes, valid, levels, radius=radius)
        positive, row = found >= 0, jnp.maximum(found, 0)
        wanted = jax.nn.one_hot(classes[row], logits.shape[-1]) * positive[:, None]
        there = jnp.where(positive[:, None], boxes[row], anchors)
        reached = jnp.where(positive[:, None], decode_distances(codes, anchors), there)
        of_box = jnp.where(positive, 1.0 - giou(reached, there), 0.0)
        sides = encode_distances(there, anchors)
        aim = centreness_of(sides)
        cross = optax.sigmoid_binary_cross_entropy(centreness, aim)
        return (
            focal(logits, wanted).sum(),
            of_box.sum(),
            jnp.where(positive, cross, 0.0).sum(),
            positive.sum(),
        )

    *sums, count = _each(one, outputs, target)
    total = jnp.maximum(count.sum(), 1)
    names = ("class", "box", "centreness")
    return {name: x.sum() / total for name, x in zip(names, sums, strict=True)}


def centreness_of(sides: jax.Array) -> jax.Array:
    """How central a point is in its box, 0 to 1.

    Args:
      sides: ``[..., 4]``, distances to left, top, right, bottom, all positive.

    >>> float(centreness_of(jnp.array([1.0, 1.0, 4.0, 1.0])))
    0.5
    """
    left, top, right, bottom = jnp.moveaxis(sides, -1, 0)
    across = jnp.minimum(left, right) / jnp.maximum(left, right)
    down = jnp.minimum(top, bottom) / jnp.maximum(top, bottom)
    return jnp.sqrt(across * down)


def _each(function, outputs: Mapping, target: Mapping) -> tuple:
    """Over pictures: joined outputs, then the target."""
    given = [joined(outputs["class_logits"]), joined(outputs["box_codes"])]
    given += [target[name] for name in ("boxes", "classes", "valid")]
    if "centreness" in outputs:
        given.append(joined(outputs["centreness"]))
    return jax.vmap(function)(*given)


def detect(
    outputs: Mapping, size: jax.Array, kept: Kept, *, clamp_below: bool = False
) -> dict[str, jax.Array]:
    """Returns the best boxes of each image, without those that a better one covers.

    Of FCOS the score is the root of that of the class times the centreness.

    Args:
      outputs: of a batch.
      size: ints ``[b, 2]``, height and width of each picture in its canvas.
      kept: which.
      clamp_below: of :func:`diffkd_jax.ops.boxes.decode_boxes`.

    Returns:
      ``boxes`` ``[b, most, 4]``, inside the picture, ``scores`` ``[b, most]``, best
      first, ``classes`` int32 and ``valid`` bool; zeros where there are no more.
    """
    centred = "centreness" in outputs
    names = ["class_logits", "box_codes", *(["centreness"] if centred else [])]
    levels = [
        (outputs["anchors"][level], *(outputs[name][level] for name in names))
        for level in outputs["anchors"]
    ]

    undo = (
        decode_distances if centred else partial(decode_boxes, clamp_below=clamp_below)
    )

    def one(levels, size):
        found = [_candidates(*level, kept=kept, decode=undo) for level in levels]
        boxes, scores, classes = (jnp.concatenate(x) for x in zip(*found, strict=True))
        # By their logarithms: probabilities of 1 are ties in float32.
        return suppressed(boxes, scores, classes, size, kept, jnp.exp)

    axes = [(None, *(0 for _ in names)) for _ in levels]
    return jax.vmap(one, in_axes=(axes, 0))(levels, size)


def suppressed(
    boxes: jax.Array,
    ranks: jax.Array,
    classes: jax.Array,
    size: jax.Array,
    kept: Kept,
    score: Callable[[jax.Array], jax.Array] = lambda rank: rank,
) -> dict[str, jax.Array]:
    """The best boxes of one picture, cut to it, suppressed within classes.

    Args:
      boxes: ``[n, 4]``.
      ranks: ``[n]``, larger for better, -inf for no box.
      classes: ints ``[n]``.
      size: height and width of the picture.
      kept: which; ``score`` and ``candidates`` are not looked at.
      score: of a rank.

    Returns:
      As of :func:`detect`, without the batch axis.
    """
    boxes = clip(boxes, size)
    there = (boxes[:, 2:] - boxes[:, :2] >= kept.side).all(-1)
    ranks = jnp.where(there, ranks, -jnp.inf)
    rows, valid = greedy(boxes, ranks, classes, kept.nms, kept.most)
    return {
        "boxes": jnp.where(valid[:, None], boxes[rows], 0),
        "scores": jnp.where(valid, score(ranks[rows]), 0),
        "classes": jnp.where(valid, classes[rows], 0),
        "valid": valid,
    }


def _candidates(anchors, logits, codes, centreness=None, *, kept, decode):
    """The best of one level: boxes, logarithms of scores (-inf for none), classes."""
    classes = logits.shape[-1]
    score = jax.nn.log_sigmoid(logits)
    if centreness is not None:
        score = (score + jax.nn.log_sigmoid(centreness)[:, None]) / 2
    score = jnp.where(score > jnp.log(kept.score), score, -jnp.inf).reshape(-1)
    score, at = jax.lax.top_k(score, min(kept.candidates, score.size))
    row = at // classes
    found = decode(codes[row], jnp.asarray(anchors)[row])
    return found, score, (at % classes).astype(jnp.int32)
