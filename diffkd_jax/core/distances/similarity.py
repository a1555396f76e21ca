"""Similarities of vectors on the last axis, of which distances are made."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Features = Float[Array, "*dims c"]
Target: TypeAlias = PyTree  # the dict batch["target"], or None
Scalar = Float[Array, ""]


def prepare_pair(
    student: Float[Array, "..."], teacher: Float[Array, "..."]
) -> tuple[Features, Features]:
    """Refuses features of different shapes, and returns both in float32 or wider.

    Args:
      student: ``[..., c]``.
      teacher: the same shape.

    Raises:
      ValueError: the shapes differ.

    >>> half = jnp.ones((2, 3), jnp.bfloat16)
    >>> [x.dtype.name for x in prepare_pair(half, half)]
    ['float32', 'float32']
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"found shapes {student.shape} (student) and {teacher.shape} (teacher), "
            "expected the same; denoise the student or project it to the teacher's "
            "channels"
        )
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    return student.astype(dtype), teacher.astype(dtype)


def mean_kl(student: Float[Array, "n c"], teacher: Float[Array, "n c"]) -> Scalar:
    """Computes the mean over rows of KL(softmax(teacher) || softmax(student)).

    Args:
      student: ``[n, c]``, logits.
      teacher: ``[n, c]``, logits. Classes whose logit is -inf add nothing.

    >>> x = jnp.array([[0.0, 1.0, -jnp.inf]])
    >>> float(mean_kl(x, x))
    0.0
    """
    log_s, log_t = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    p_t = jnp.exp(log_t)
    # Both logarithms are -inf where p_t is exactly zero by construction.
    masked = jnp.isneginf(teacher)
    difference = jnp.where(masked, 0.0, log_t) - jnp.where(masked, 0.0, log_s)
    return jnp.mean(jnp.sum(p_t * difference, -1))


def cosine_similarity(
    a: Features, b: Features, least: Float[Array, "*dims"] | float
) -> Float[Array, "*dims"]:
    """Computes the cosine of the vectors on the last axis.

    Args:
      a: ``[..., c]``.
      b: the same shape.
      least: number, or ``[...]``, that replaces a smaller norm of ``a``.

    >>> float(cosine_similarity(jnp.array([0.0, 4.0]), jnp.array([0.0, 2.0]), 1e-3))
    1.0
    """
    return jnp.sum(a * b, -1) / (
        jnp.maximum(vector_norm(a), least) * vector_norm(b) + 1e-8
    )


def vector_norm(a: Features) -> Float[Array, "*dims"]:
    """Computes the Euclidean norm, whose gradient at zero is zero instead of NaN.

    Args:
      a: ``[..., c]``.

    >>> float(vector_norm(jnp.array([3.0, 4.0])))
    5.0
    """
    square = jnp.sum(jnp.square(a), -1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
