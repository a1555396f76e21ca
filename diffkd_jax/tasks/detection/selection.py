"""Selection of detections: limits, and suppression within each class."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ...ops.boxes import clip
from ...ops.nms import greedy


class Selection(NamedTuple):
    """The rule by which detections are selected from the outputs of a detector.

    Attributes:
      score: score above which a box is a candidate, in [0, 1).
      candidates: largest number of candidates of each level; those of highest score are
        taken.
      nms: IoU above which the lower-scored box of the same class is dropped.
      most: largest number of detections of each image.
      side: smallest height and width of a box after clipping, in pixels; smaller boxes
        are dropped.

    >>> Selection(0.05, 1000, 0.5, 100).side
    0.01
    """

    score: float
    candidates: int
    nms: float
    most: int
    side: float = 0.01


def suppress(
    boxes: Float[Array, "n 4"],
    ranks: Float[Array, " n"],
    classes: Int[Array, " n"],
    size: Int[Array, "2"],
    selection: Selection,
    score: Callable[[jax.Array], jax.Array] = lambda rank: rank,
) -> dict[str, Num[Array, "..."]]:
    """Clips the boxes of one image and suppresses overlapping ones within each class.

    Args:
      boxes: ``[n, 4]``, in pixels.
      ranks: ``[n]``, numbers that order the boxes, largest first, such as logits; -inf
        for rows without a box.
      classes: ``[n]``, class numbers.
      size: ``[2]``, height and width of the image, in pixels.
      selection: its ``nms``, ``most`` and ``side`` are used.
      score: rising function that turns ranks into scores, such as a sigmoid. The scores
        are returned; they do not decide which boxes are kept.

    Returns:
      ``boxes`` ``[most, 4]``, ``scores`` ``[most]``, ``classes`` int32 ``[most]`` and
      ``valid`` bool ``[most]``, best first. Rows without a detection are zero.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 0, 9, 4]])
    >>> ranks, classes = jnp.array([0.5, 0.9, 0.1]), jnp.zeros(3, jnp.int32)
    >>> rule = Selection(0.0, 0, 0.5, 2)
    >>> suppress(boxes, ranks, classes, jnp.array([4, 8]), rule)["boxes"].tolist()
    [[0.0, 0.0, 4.0, 3.0], [5.0, 0.0, 8.0, 4.0]]
    """
    boxes = clip(boxes, size)
    large_enough = (boxes[:, 2:] - boxes[:, :2] >= selection.side).all(-1)
    ranks = jnp.where(large_enough, ranks, -jnp.inf)
    rows, valid = greedy(boxes, ranks, classes, selection.nms, selection.most)
    return {
        "boxes": jnp.where(valid[:, None], boxes[rows], 0),
        "scores": jnp.where(valid, score(ranks[rows]), 0),
        "classes": jnp.where(valid, classes[rows], 0),
        "valid": valid,
    }
