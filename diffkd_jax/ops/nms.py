"""Non-maximum suppression within classes, for one image, with fixed shapes.

Class numbers are compared directly. Other implementations add to the coordinates an
offset for each class, which loses floating-point precision. Of boxes with equal scores,
the one in the lower row comes first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32

from .boxes import iou


def greedy(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    classes: Int[Array, " n"],
    threshold: float,
    count: int,
) -> tuple[Int32[Array, " count"], Bool[Array, " count"]]:
    """Selects boxes by non-maximum suppression, highest score first.

    It takes one step for each box to keep, and needs no matrix of overlaps. Use it to
    keep few of many boxes.

    Args:
      boxes: ``[n, 4]``, in pixels.
      scores: ``[n]``, minus infinity for rows without a box.
      classes: ``[n]``, class numbers.
      threshold: IoU above which the lower-scored box of the same class is dropped.
      count: largest number of boxes to keep.

    Returns:
      rows: int32 ``[count]``, rows of the kept boxes, 0 where no box is left.
      valid: bool ``[count]``.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 0, 9, 4]])
    >>> scores, classes = jnp.array([0.5, 0.9, 0.1]), jnp.zeros(3, jnp.int32)
    >>> rows, valid = greedy(boxes, scores, classes, 0.5, 3)
    >>> rows[valid].tolist()
    [1, 2]
    """
    order = jnp.arange(len(boxes))
    boxes, classes = jnp.asarray(boxes), jnp.asarray(classes)

    def step(alive: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        row = alive.argmax()
        any_left = alive[row] > -jnp.inf
        hit = (iou(boxes[row][None], boxes)[0] > threshold) & (classes == classes[row])
        alive = jnp.where(hit | (order == row), -jnp.inf, alive)
        return alive, (jnp.where(any_left, row, 0).astype(jnp.int32), any_left)

    # argmax takes NaN for the largest score.
    alive = jnp.where(scores > -jnp.inf, scores, -jnp.inf)
    _, (rows, valid) = jax.lax.scan(step, alive, length=count)
    return rows, valid


def keep_mask(
    boxes: Float[Array, "n 4"],
    classes: Int[Array, " n"],
    valid: Bool[Array, " n"],
    threshold: float,
) -> Bool[Array, " n"]:
    """Marks the boxes that survive non-maximum suppression.

    It takes one step for each box, and computes all overlaps at once. Use it if most
    boxes are kept.

    Args:
      boxes: ``[n, 4]``, in pixels, sorted by falling score.
      classes: ``[n]``, class numbers.
      valid: ``[n]``; rows that are not valid are not kept and drop no other box.
      threshold: IoU above which the lower-scored box of the same class is dropped.

    Returns:
      bool ``[n]``.

    >>> boxes = jnp.array([[0.0, 0, 4, 3], [0, 0, 4, 4], [5, 0, 9, 4]])
    >>> keep_mask(boxes, jnp.zeros(3, int), jnp.ones(3, bool), 0.5).tolist()
    [True, False, True]
    """
    order = jnp.arange(len(boxes))
    hits = (iou(boxes, boxes) > threshold) & (classes[:, None] == classes)
    hits &= order > order[:, None]
    remove = lambda row, mask: mask & ~(hits[row] & mask[row])
    survivors: Array = jax.lax.fori_loop(0, len(boxes), remove, valid)
    return survivors
