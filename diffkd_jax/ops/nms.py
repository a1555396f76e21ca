"""Non-maximum suppression within classes, of one picture, in fixed sizes.

Classes are compared, boxes not moved apart by class: moving costs digits. Boxes as good
as each other are taken in their order.
"""

import jax
import jax.numpy as jnp

from .boxes import iou


def greedy(
    boxes: jax.Array,
    scores: jax.Array,
    classes: jax.Array,
    threshold: float,
    count: int,
) -> tuple[jax.Array, jax.Array]:
    """The best boxes that overlap no better one of their class, best first.

    One step for each box that is kept, without a matrix of overlaps: for few of many.

    Args:
      boxes: ``[n, 4]``, pixels.
      scores: ``[n]``, floating; minus infinity where there is no box.
      classes: int ``[n]``.
      threshold: an IoU above it removes the worse box.
      count: how many are kept at most.

    Returns:
      rows: int32 ``[count]``, 0 where nothing was left.
      valid: bool ``[count]``.

    >>> boxes = jnp.array([[0.0, 0, 4, 4], [0, 0, 4, 3], [5, 0, 9, 4]])
    >>> scores, classes = jnp.array([0.5, 0.9, 0.1]), jnp.zeros(3, jnp.int32)
    >>> rows, valid = greedy(boxes, scores, classes, 0.5, 3)
    >>> rows[valid].tolist()
    [1, 2]
    """
    order = jnp.arange(len(boxes))
    boxes, classes = jnp.asarray(boxes), jnp.asarray(classes)

    def step(alive, _):
        row = alive.argmax()
        found = alive[row] > -jnp.inf
        hit = (iou(boxes[row][None], boxes)[0] > threshold) & (classes == classes[row])
        alive = jnp.where(hit | (order == row), -jnp.inf, alive)
        return alive, (jnp.where(found, row, 0).astype(jnp.int32), found)

    # A score that is no number would be taken for the largest.
    alive = jnp.where(scores > -jnp.inf, scores, -jnp.inf)
    _, kept = jax.lax.scan(step, alive, length=count)
    return kept


def keep_mask(
    boxes: jax.Array, classes: jax.Array, valid: jax.Array, threshold: float
) -> jax.Array:
    """Which of sorted boxes overlap no better one of their class that is kept.

    One step for each box, with all overlaps at once: where most are kept.

    Args:
      boxes: ``[n, 4]``, best first.
      classes: int ``[n]``.
      valid: bool ``[n]``; the others are neither kept nor do they remove any.
      threshold: an IoU above it removes the worse box.

    Returns:
      bool ``[n]``.

    >>> boxes = jnp.array([[0.0, 0, 4, 3], [0, 0, 4, 4], [5, 0, 9, 4]])
    >>> keep_mask(boxes, jnp.zeros(3), jnp.ones(3, bool), 0.5).tolist()
    [True, False, True]
    """
    order = jnp.arange(len(boxes))
    hits = (iou(boxes, boxes) > threshold) & (classes[:, None] == classes)
    hits &= order > order[:, None]
    remove = lambda row, kept: kept & ~(hits[row] & kept[row])
    return jax.lax.fori_loop(0, len(boxes), remove, valid)
