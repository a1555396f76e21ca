"""Distances between features, see :mod:`diffkd_jax.core.distances`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .similarity import (
    Features,
    Scalar,
    Target,
    cosine_similarity,
    mean_kl,
    prepare_pair,
)

LEAST_NORM = 1e-3  # smallest norm of a student's vector in a denominator


def mse(student: Features, teacher: Features, target: Target = None) -> Scalar:
    """Computes the mean squared error over all elements (eq. 7, features).

    Args:
      student: ``[..., c]``.
      teacher: the same shape.
      target: not read.

    >>> float(mse(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
    2.0
    """
    del target
    student, teacher = prepare_pair(student, teacher)
    return jnp.mean(jnp.square(student - teacher))


def l1(student: Features, teacher: Features, target: Target = None) -> Scalar:
    """Computes the mean absolute error over all elements, as MasKD does for box codes.

    Args:
      student: ``[..., c]``.
      teacher: the same shape.
      target: not read.

    >>> float(l1(jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 4.0]])))
    1.0
    """
    del target
    student, teacher = prepare_pair(student, teacher)
    return jnp.mean(jnp.abs(student - teacher))


def attention(
    x: Float[Array, "b h w c"], temperature: float
) -> tuple[Float[Array, "b h w"], Float[Array, "b c"]]:
    """Weighs positions and channels by their magnitude, as FGD does (Yang et al. 2022).

    Args:
      x: ``[b, h, w, c]``, a feature map.
      temperature: temperature of both softmaxes, above 0; a lower one gives sharper
        weights.

    Returns:
      Weights of positions ``[b, h, w]`` and of channels ``[b, c]``, each of mean 1.

    >>> positions, channels = attention(jnp.ones((1, 2, 2, 3)), 0.5)
    >>> float(positions.sum()), round(float(channels.sum()), 4)
    (4.0, 3.0)
    """
    b, h, w, c = x.shape
    size = jnp.abs(x)
    logits = size.mean(-1).reshape(b, -1) / temperature
    positions = h * w * jax.nn.softmax(logits).reshape(b, h, w)
    return positions, c * jax.nn.softmax(size.mean((1, 2)) / temperature)


def attention_mse(
    student: Features, teacher: Features, target: Target = None, *, tau: float = 0.5
) -> Scalar:
    """Computes the squared error of maps, weighted by the teacher's attention.

    The weights are the attention over positions times that over channels of FGD (Yang
    et al. 2022), both of mean 1. The paper has table rows of an "attention-based MSE"
    without a definition; this reading is ours.

    Args:
      student: ``[b, h, w, c]``.
      teacher: the same shape.
      target: not read.
      tau: temperature of the attention, above 0.

    Raises:
      ValueError: the features are not maps.

    >>> x = jnp.ones((1, 2, 2, 3))
    >>> round(float(attention_mse(x, 2 * x)), 6)
    1.0
    """
    del target
    student, teacher = prepare_pair(student, teacher)
    if student.ndim != 4:
        raise ValueError(f"attention_mse: found {student.shape}, expected [b, h, w, c]")
    positions, channels = attention(teacher, tau)
    weight = positions[..., None] * channels[:, None, None]
    return jnp.mean(weight * jnp.square(student - teacher))


def cosine(student: Features, teacher: Features, target: Target = None) -> Scalar:
    """Computes one minus the cosine of channel vectors, a mean over positions.

    The result is in [0, 2]. A norm of a student's vector below 1e-3 is replaced by
    1e-3. This bounds the gradient where the vector is zero, as after a dead ReLU.

    Args:
      student: ``[..., c]``.
      teacher: the same shape.
      target: not read.

    >>> float(cosine(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 3.0]])))
    1.0
    """
    del target
    student, teacher = prepare_pair(student, teacher)
    return jnp.mean(1.0 - cosine_similarity(student, teacher, LEAST_NORM))


def cwd(
    student: Features, teacher: Features, target: Target = None, *, tau: float = 4.0
) -> Scalar:
    """Computes the channel-wise distillation loss of maps.

    Each channel is a distribution over its positions: ``tau^2 KL(teacher || student)``,
    averaged over examples and channels; Shu et al., ICCV 2021.

    Args:
      student: ``[b, h, w, c]`` or ``[b, n, c]``.
      teacher: the same shape.
      target: not read.
      tau: temperature, above 0.

    Raises:
      ValueError: the features have no positions.

    >>> x = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> abs(float(cwd(x, x))) < 1e-6
    True
    """
    del target
    student, teacher = prepare_pair(student, teacher)
    if student.ndim < 3:
        raise ValueError(
            f"cwd: found {student.shape}, expected maps, [b, h, w, c]: a channel is "
            "compared over its positions"
        )
    b, *_, channels = student.shape
    student, teacher = (
        x.reshape(b, -1, channels).swapaxes(1, 2).reshape(b * channels, -1)
        for x in (student, teacher)
    )
    return mean_kl(student / tau, teacher / tau) * tau**2
