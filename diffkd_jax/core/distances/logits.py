"""Distances between logits, see :mod:`diffkd_jax.core.distances`.

Each position counts as an example of its own, so they serve segmentation maps too.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from .similarity import (
    Features,
    Scalar,
    Target,
    cosine_similarity,
    mean_kl,
    prepare_pair,
    vector_norm,
)

# Smallest ratio of the deviation of a student's probabilities to their root mean square
# in a denominator.
LEAST_VARIATION = 1e-2


def kl(
    student: Features, teacher: Features, target: Target = None, *, tau: float = 1.0
) -> Scalar:
    """Computes ``tau^2 KL(teacher || student)`` of softened logits.

    The result is the mean over examples and positions. Source: Hinton et al. 2015;
    with tau = 1, eq. 7 for logits.

    Args:
      student: ``[..., c]``, logits.
      teacher: the same shape.
      target: not read.
      tau: temperature, above 0.

    >>> abs(float(kl(jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 3.0]])))) < 1e-6
    True
    """
    del target
    student, teacher = _rows(*prepare_pair(student, teacher))
    return mean_kl(student / tau, teacher / tau) * tau**2


def dist(
    student: Features,
    teacher: Features,
    target: Target = None,
    *,
    tau: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Scalar:
    """Computes the DIST loss: one minus correlation, between and within classes.

    ``tau^2 (beta inter + gamma intra)`` on softened probabilities; Huang et al.,
    "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022.

    Deviation: if the standard deviation of the student's probabilities is below 1 % of
    their root mean square, this 1 % takes its place in the correlation. At equal logits
    (a head that is initialised with zeros), the gradient of the official code reaches
    1e8; here it is bounded, and still points to the teacher.

    Args:
      student: ``[..., c]``, logits.
      teacher: the same shape.
      target: not read.
      tau: temperature, above 0.
      beta: weight of the correlation between classes, for each example.
      gamma: weight of the correlation within a class, over examples.

    >>> x = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    >>> abs(float(dist(x, x))) < 1e-5
    True
    """
    del target
    student, teacher = _rows(*prepare_pair(student, teacher))
    p_s = jax.nn.softmax(student / tau)
    p_t = jax.nn.softmax(teacher / tau)
    inter = jnp.mean(1.0 - _pearson(p_s, p_t))
    intra = jnp.mean(1.0 - _pearson(p_s.T, p_t.T))
    return tau**2 * (beta * inter + gamma * intra)


def dkd(
    student: Features,
    teacher: Features,
    target: Target = None,
    *,
    tau: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Scalar:
    """Computes the decoupled KD loss: one term for the target class, one for the rest.

    ``tau^2 (alpha TCKD + beta NCKD)``, a mean over examples and positions; Zhao et al.,
    CVPR 2022. TCKD compares the probabilities of the target class and of all others
    together. NCKD compares the other classes among themselves.

    Args:
      student: ``[..., c]``, logits.
      teacher: the same shape.
      target: a dict with ``label``, int ``[...]``.
      tau: temperature, above 0.
      alpha: weight of the term for the target class.
      beta: weight of the term for the other classes.

    Raises:
      ValueError: the target has no labels, or labels of another shape.

    >>> x, target = jnp.array([[1.0, 2.0, 0.0]]), {"label": jnp.array([1])}
    >>> abs(float(dkd(x, x, target))) < 1e-6
    True
    """
    if not isinstance(target, Mapping) or "label" not in target:
        names = list(target) if isinstance(target, Mapping) else type(target).__name__
        raise ValueError(
            f"dkd: found no 'label' in the target, {names}, expected integer class "
            "labels as batch['target']['label']"
        )
    label = target["label"]
    if label.shape != student.shape[:-1]:
        raise ValueError(
            f"dkd: found labels of shape {label.shape}, expected {student.shape[:-1]}"
        )
    student, teacher = _rows(*prepare_pair(student, teacher))
    is_target = jax.nn.one_hot(label.reshape(-1), student.shape[-1], dtype=bool)
    target_class = mean_kl(
        _binary_logits(student / tau, is_target),
        _binary_logits(teacher / tau, is_target),
    )
    others = mean_kl(
        jnp.where(is_target, -jnp.inf, student / tau),
        jnp.where(is_target, -jnp.inf, teacher / tau),
    )
    return tau**2 * (alpha * target_class + beta * others)


def _rows(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reshapes both to ``[n, c]``."""
    channels = student.shape[-1]
    return student.reshape(-1, channels), teacher.reshape(-1, channels)


def _binary_logits(logits: jax.Array, is_target: jax.Array) -> jax.Array:
    """Returns logits of the target class and of all others, with softmax (p, 1 - p)."""
    others = jnp.where(is_target, -jnp.inf, logits)
    joined = jax.nn.logsumexp(others, axis=-1)
    return jnp.stack([jnp.sum(jnp.where(is_target, logits, 0.0), -1), joined], -1)


def _pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns Pearson's correlation along the last axis."""
    centred_a, centred_b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return cosine_similarity(centred_a, centred_b, LEAST_VARIATION * vector_norm(a))
