"""Focal and global distillation of detectors' maps (FGD, Yang et al., CVPR 2022).

Two parts of one level of a pyramid: :func:`fgd`, a distance that weighs errors inside
and outside of boxes by the teacher's attention, and :class:`Relation`, a block whose
loss compares how positions relate. All are sums over a picture, means over pictures:
hence the small weights of the method.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..core.distances import attention
from ..core.modules import apply_conv
from ..core.taps import Projection, Refined


def fgd(
    student: jax.Array,
    teacher: jax.Array,
    target: Any,
    *,
    stride: int,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
) -> jax.Array:
    """The terms that need no parameters: foreground, background, attention.

    Args:
      student: maps ``[b, h, w, c]``.
      teacher: same shape.
      target: with ``boxes`` ``[b, m, 4]``, ``x1 y1 x2 y2`` in pixels of the input, and
        ``valid`` ``[b, m]``.
      stride: pixels of the input a cell.
      temperature: of both attentions.
      alpha: weight of the foreground.
      beta: weight of the background.
      gamma: weight of the attentions.

    Returns:
      Scalar, float32 or wider.

    Raises:
      ValueError: maps of other shapes, or a target without boxes.

    Deviation: boxes are scaled by ``1 / stride``, where the public code takes the
    quotient of the sizes of map and input; they are the same unless the input is no
    multiple of the stride.

    >>> x = jnp.ones((1, 2, 2, 3))
    >>> target = {"boxes": jnp.array([[[0.0, 0.0, 7.0, 7.0]]]),
    ...           "valid": jnp.array([[True]])}
    >>> float(fgd(x, x, target, stride=8)), float(fgd(x, x + 1, target, stride=8)) > 0
    (0.0, True)
    """
    found = terms(student, teacher, target, stride=stride, temperature=temperature)
    return (
        alpha * found["foreground"]
        + beta * found["background"]
        + gamma * found["attention"]
    )


def terms(
    student: jax.Array,
    teacher: jax.Array,
    target: Any,
    *,
    stride: int,
    temperature: float = 0.5,
) -> dict[str, jax.Array]:
    """``foreground``, ``background`` and ``attention`` of :func:`fgd`, not weighed."""
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"fgd: found shapes {student.shape} (student) and {teacher.shape} "
            "(teacher), expected maps of one shape, [b, h, w, c]"
        )
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    student, teacher = student.astype(dtype), teacher.astype(dtype)
    boxes, valid = _boxes_of(target)
    b, h, w, _ = student.shape
    foreground, background = masks(boxes, valid, (h, w), stride)
    positions, channels = attention(teacher, temperature)
    own_positions, own_channels = attention(student, temperature)
    error = positions[..., None] * channels[:, None, None] * (teacher - student) ** 2
    error = error.sum(-1)
    apart = jnp.abs(own_positions - positions).sum()
    apart += jnp.abs(own_channels - channels).sum()
    return {
        "foreground": (foreground * error).sum() / b,
        "background": (background * error).sum() / b,
        "attention": apart / b,
    }


def _boxes_of(target: Any) -> tuple[jax.Array, jax.Array]:
    try:
        return target["boxes"], target["valid"]
    except (KeyError, TypeError, IndexError) as error:
        names = list(target) if isinstance(target, dict) else type(target).__name__
        raise ValueError(
            f"fgd: found a target without boxes, {names}, expected batch['target'] of "
            "detection, with 'boxes' and 'valid'"
        ) from error


def masks(
    boxes: jax.Array, valid: jax.Array, size: tuple[int, int], stride: int
) -> tuple[jax.Array, jax.Array]:
    """How much each cell counts as foreground, and as background.

    Args:
      boxes: ``[b, m, 4]``, pixels of the input.
      valid: ``[b, m]``.
      size: height and width of the map, cells.
      stride: pixels a cell.

    Returns:
      Both ``[b, h, w]``: one over the cells of the smallest box that covers a cell,
      first and last cell of a box included; one over the cells that none covers.

    >>> boxes = jnp.array([[[0.0, 0.0, 7.0, 7.0]]])
    >>> fore, back = masks(boxes, jnp.array([[True]]), (2, 3), 8)
    >>> fore[0].tolist(), back[0].tolist()
    ([[0.25, 0.25, 0.0], [0.25, 0.25, 0.0]], [[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    """
    first = jnp.floor(boxes[..., :2] / stride)
    last = jnp.ceil(boxes[..., 2:] / stride)
    each = 1 / jnp.maximum(last + 1 - first, 1).prod(-1)
    x, y = (jnp.arange(side, dtype=boxes.dtype) for side in size[::-1])
    within = lambda at, axis: (
        (at >= first[..., axis, None]) & (at <= last[..., axis, None])
    )
    covers = within(y, 1)[..., :, None] & within(x, 0)[..., None, :]
    covers &= valid.astype(bool)[..., None, None]
    foreground = jnp.where(covers, each[..., None, None], 0).max(1)
    free = foreground == 0
    return foreground, free / jnp.maximum(free.sum((1, 2), keepdims=True), 1)


class Relation(nn.Module):
    """The block of FGD: projects the student if need be, and compares relations.

    Its loss ``relation`` is the squared difference of what a :class:`Context` makes of
    either side, one for each, summed over a picture. Both are trained.

    >>> student, teacher = jnp.ones((2, 3, 3, 4)), jnp.zeros((2, 3, 3, 8))
    >>> out, variables = jax.jit(Relation().init_with_output)(
    ...     jax.random.key(0), student, teacher)
    >>> out.student.shape, sorted(variables["params"])
    ((2, 3, 3, 8), ['projection', 'student', 'teacher'])
    """

    @nn.compact
    def __call__(self, student: jax.Array, teacher: jax.Array) -> Refined:
        """Both maps, of one shape, and the loss ``relation``.

        Raises:
          ValueError: no maps, or maps that cannot be matched.
        """
        if student.ndim != 4:
            raise ValueError(f"Relation: found {student.shape}, expected [b, h, w, c]")
        pair = Projection(name="projection")(student, teacher)
        own = Context(name="student")(pair.student)
        other = Context(name="teacher")(pair.teacher)
        dtype = jnp.promote_types(own.dtype, jnp.float32)
        error = jnp.square(other.astype(dtype) - own.astype(dtype)).sum()
        return Refined(pair.student, pair.teacher, {"relation": error / len(student)})


class Context(nn.Module):
    """A map plus what one vector, pooled by a trained attention, adds to its channels.

    The global context block of Cao et al. 2019: softmax of a 1x1 convolution over
    positions, then channels to half of them, layer norm, ReLU and back. The last layer
    starts at zero, and so at the map itself.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        logits = apply_conv(x, 1, dtype=None, name="mask").reshape(b, h * w)
        pooled = jnp.einsum("bn,bnc->bc", jax.nn.softmax(logits), x.reshape(b, -1, c))
        pooled = pooled[:, None, None]
        wide = jnp.promote_types(x.dtype, jnp.float32)
        inner = apply_conv(pooled, max(c // 2, 1), dtype=None, name="reduce")
        norm = nn.LayerNorm(1e-5, dtype=x.dtype, param_dtype=wide, name="norm")
        expand = nn.Dense(
            c,
            kernel_init=nn.initializers.zeros,
            dtype=x.dtype,
            param_dtype=wide,
            name="expand",
        )
        return x + expand(nn.relu(norm(inner)))
