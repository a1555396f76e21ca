"""Focal and global distillation of detectors' maps (FGD, Yang et al., CVPR 2022).

There are two parts for each level of a pyramid. :func:`fgd` is a distance that weighs
errors inside and outside boxes by the teacher's attention. :class:`Relation` is a block
whose loss compares how positions relate to each other. All terms are sums over an image
and means over images, so the method's weights are small.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..core.conv_layers import apply_conv
from ..core.distances import attention
from ..core.taps import Projection, Refined


def fgd(
    student: Float[Array, "b h w c"],
    teacher: Float[Array, "b h w c"],
    target: PyTree,
    *,
    stride: int,
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
) -> Float[Array, ""]:
    """Computes the three terms of FGD that have no trained parameters, and adds them.

    The terms are foreground, background and attention, each with its weight.

    Deviation: boxes are scaled by ``1 / stride``, while the public code divides the
    size of the map by that of the input. The two are equal unless the input is not a
    multiple of the stride.

    Args:
      student: ``[b, h, w, c]``.
      teacher: the same shape.
      target: a dict with ``boxes`` ``[b, m, 4]``, ``x1 y1 x2 y2`` in pixels of the
        input, and ``valid`` ``[b, m]``.
      stride: side of a cell, in pixels of the input.
      temperature: temperature of the attention over positions and over channels,
        above 0.
      alpha: weight of errors inside boxes.
      beta: weight of errors outside boxes.
      gamma: weight of the difference between the attentions of student and teacher.

    Returns:
      Scalar, float32 or wider.

    Raises:
      ValueError: the maps differ in shape, or the target has no boxes.

    >>> x = jnp.ones((1, 2, 2, 3))
    >>> target = {"boxes": jnp.array([[[0.0, 0.0, 7.0, 7.0]]]),
    ...           "valid": jnp.array([[True]])}
    >>> float(fgd(x, x, target, stride=8)), float(fgd(x, x + 1, target, stride=8)) > 0
    (0.0, True)
    """
    values = fgd_terms(student, teacher, target, stride=stride, temperature=temperature)
    return (
        alpha * values["foreground"]
        + beta * values["background"]
        + gamma * values["attention"]
    )


def fgd_terms(
    student: Float[Array, "b h w c"],
    teacher: Float[Array, "b h w c"],
    target: PyTree,
    *,
    stride: int,
    temperature: float = 0.5,
) -> dict[str, Float[Array, ""]]:
    """Computes the unweighted terms of :func:`fgd` by name.

    Args:
      student: ``[b, h, w, c]``.
      teacher: the same shape.
      target: as for :func:`fgd`.
      stride: side of a cell, in pixels of the input.
      temperature: temperature of the attention over positions and over channels,
        above 0.

    Returns:
      ``foreground``, ``background`` and ``attention``, scalars.

    Raises:
      ValueError: the maps differ in shape, or the target has no boxes.

    >>> x, boxes = jnp.ones((1, 2, 2, 3)), jnp.array([[[0.0, 0.0, 7.0, 7.0]]])
    >>> target = {"boxes": boxes, "valid": jnp.array([[True]])}
    >>> sorted(fgd_terms(x, x, target, stride=8))
    ['attention', 'background', 'foreground']
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ValueError(
            f"fgd: found shapes {student.shape} (student) and {teacher.shape} "
            "(teacher), expected maps of one shape, [b, h, w, c]"
        )
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    student, teacher = student.astype(dtype), teacher.astype(dtype)
    boxes, valid = _boxes_of(target)
    b, h, w, _ = student.shape
    foreground, background = weigh_cells(boxes, valid, (h, w), stride)
    positions, channels = attention(teacher, temperature)
    student_positions, student_channels = attention(student, temperature)
    error = positions[..., None] * channels[:, None, None] * (teacher - student) ** 2
    error = error.sum(-1)
    difference = jnp.abs(student_positions - positions).sum()
    difference += jnp.abs(student_channels - channels).sum()
    return {
        "foreground": (foreground * error).sum() / b,
        "background": (background * error).sum() / b,
        "attention": difference / b,
    }


def _boxes_of(target: PyTree) -> tuple[jax.Array, jax.Array]:
    """Returns the boxes of a target and which of them are valid."""
    try:
        return target["boxes"], target["valid"]
    except (KeyError, TypeError, IndexError) as error:
        names = list(target) if isinstance(target, dict) else type(target).__name__
        raise ValueError(
            f"fgd: found a target without boxes, {names}, expected batch['target'] of "
            "detection, with 'boxes' and 'valid'"
        ) from error


def weigh_cells(
    boxes: Float[Array, "b m 4"],
    valid: Bool[Array, "b m"],
    size: tuple[int, int],
    stride: int,
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """Weighs the cells of a map as foreground, inside boxes, and as background.

    Args:
      boxes: ``[b, m, 4]``, in pixels of the input.
      valid: ``[b, m]``, false for rows of padding.
      size: height and width of the map, in cells.
      stride: side of a cell, in pixels of the input.

    Returns:
      Two arrays ``[b, h, w]``. Foreground: 1 divided by the number of cells of the
      smallest box that covers the cell, where a box includes its first and last cell.
      Background: 1 divided by the number of cells that no box covers.

    >>> boxes = jnp.array([[[0.0, 0.0, 7.0, 7.0]]])
    >>> fore, back = weigh_cells(boxes, jnp.array([[True]]), (2, 3), 8)
    >>> fore[0].tolist(), back[0].tolist()
    ([[0.25, 0.25, 0.0], [0.25, 0.25, 0.0]], [[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]])
    """
    first = jnp.floor(boxes[..., :2] / stride)
    last = jnp.ceil(boxes[..., 2:] / stride)
    each = 1 / jnp.maximum(last + 1 - first, 1).prod(-1)
    x, y = (jnp.arange(side, dtype=boxes.dtype) for side in size[::-1])
    within = lambda cell, axis: (
        (cell >= first[..., axis, None]) & (cell <= last[..., axis, None])
    )
    covers = within(y, 1)[..., :, None] & within(x, 0)[..., None, :]
    covers &= valid.astype(bool)[..., None, None]
    foreground = jnp.where(covers, each[..., None, None], 0).max(1)
    free = foreground == 0
    return foreground, free / jnp.maximum(free.sum((1, 2), keepdims=True), 1)


class Relation(nn.Module):
    """The block of FGD, which compares how positions of a map relate to each other.

    If the numbers of channels differ, the student is projected.

    Its loss ``relation`` is the squared difference between the results of two
    :class:`Context` modules, one for each side, summed over an image. Both are trained.

    >>> student, teacher = jnp.ones((2, 3, 3, 4)), jnp.zeros((2, 3, 3, 8))
    >>> out, variables = jax.jit(Relation().init_with_output)(
    ...     jax.random.key(0), student, teacher)
    >>> out.student.shape, sorted(variables["params"])
    ((2, 3, 3, 8), ['projection', 'student', 'teacher'])
    """

    @nn.compact
    def __call__(
        self, student: Float[Array, "b h w c"], teacher: Float[Array, "b h2 w2 c2"]
    ) -> Refined:
        """Brings both maps to one shape, and computes the loss ``relation``.

        Args:
          student: ``[b, h, w, c]``.
          teacher: ``[b, h', w', c']``.

        Returns:
          Both maps and the loss.

        Raises:
          ValueError: the features are not maps, or cannot be matched.
        """
        if student.ndim != 4:
            raise ValueError(f"Relation: found {student.shape}, expected [b, h, w, c]")
        pair = Projection(name="projection")(student, teacher)
        of_student = Context(name="student")(pair.student)
        of_teacher = Context(name="teacher")(pair.teacher)
        dtype = jnp.promote_types(of_student.dtype, jnp.float32)
        error = jnp.square(of_teacher.astype(dtype) - of_student.astype(dtype)).sum()
        return Refined(pair.student, pair.teacher, {"relation": error / len(student)})


class Context(nn.Module):
    """The global context block of Cao et al. 2019, which adds a pooled vector to a map.

    A softmax over positions of a 1x1 convolution pools the map to a vector. The vector
    goes through a layer to half the channels, layer norm, ReLU and a layer back. The
    last layer is initialised with zeros, so that the block starts as the identity.

    >>> x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> y, _ = Context().init_with_output(jax.random.key(0), x)
    >>> bool((y == x).all())
    True
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Maps ``[b, h, w, c]`` to the same shape."""
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
