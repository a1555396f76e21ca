"""Distances between outputs of student and teacher, as pure functions to a scalar.

Each takes ``(student, teacher, target)``: two arrays of one shape ``[..., c]``, and the
dict ``batch["target"]``, which only :func:`dkd` reads. All of them compute in float32
or wider. Distances on logits treat each position as an example of its own, so they
serve segmentation maps too. Bind further arguments such as ``tau`` with
``functools.partial``.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

Features = Float[Array, "*dims c"]
Target: TypeAlias = PyTree  # the dict batch["target"], or None
Scalar = Float[Array, ""]

# Smallest norm of a student's vector, and smallest relative deviation of its
# probabilities, that count in a denominator.
LEAST_NORM = 1e-3
LEAST_VARIATION = 1e-2


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
    student, teacher = _check(student, teacher)
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
    student, teacher = _check(student, teacher)
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
    student, teacher = _check(student, teacher)
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
    student, teacher = _check(student, teacher)
    return jnp.mean(1.0 - _cosine(student, teacher, LEAST_NORM))


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
    student, teacher = _rows(*_check(student, teacher))
    return _kl(student / tau, teacher / tau) * tau**2


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
    student, teacher = _rows(*_check(student, teacher))
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
    student, teacher = _rows(*_check(student, teacher))
    is_target = jax.nn.one_hot(label.reshape(-1), student.shape[-1], dtype=bool)
    target_class = _kl(
        _binary_logits(student / tau, is_target),
        _binary_logits(teacher / tau, is_target),
    )
    others = _kl(
        jnp.where(is_target, -jnp.inf, student / tau),
        jnp.where(is_target, -jnp.inf, teacher / tau),
    )
    return tau**2 * (alpha * target_class + beta * others)


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
    student, teacher = _check(student, teacher)
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
    return _kl(student / tau, teacher / tau) * tau**2


DISTANCES: dict[str, Callable[..., Scalar]] = {
    "mse": mse,
    "l1": l1,
    "attention_mse": attention_mse,
    "cosine": cosine,
    "kl": kl,
    "dist": dist,
    "dkd": dkd,
    "cwd": cwd,
}


def reads_target(distance: Callable[..., Scalar], student: Any, teacher: Any) -> bool:
    """Returns whether a distance reads the target of the batch.

    Args:
      distance: ``(student, teacher, target) -> scalar``. It is traced by
        ``jax.eval_shape``, so no values are computed.
      student: an array that it accepts, or a ``jax.ShapeDtypeStruct``.
      teacher: the same.

    >>> x = jax.ShapeDtypeStruct((4, 2, 2, 3), jnp.float32)
    >>> [name for name, distance in DISTANCES.items() if reads_target(distance, x, x)]
    ['dkd']
    """
    try:
        jax.eval_shape(lambda s, t: distance(s, t, _Watched()), student, teacher)
    except _TargetRead:
        return True
    return False


class _TargetRead(Exception):
    """The signal that a distance has read its target."""

    pass


class _Watched(dict[str, Any]):
    """A target that raises :class:`_TargetRead` when it is read."""

    def _read(self, *_: Any, **__: Any) -> Any:
        raise _TargetRead

    __getitem__ = __contains__ = __iter__ = __len__ = get = keys = items = values = (
        _read
    )


def _check(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Refuses different shapes, and returns both in float32 or wider."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"found shapes {student.shape} (student) and {teacher.shape} (teacher), "
            "expected the same; denoise the student or project it to the teacher's "
            "channels"
        )
    dtype = jnp.promote_types(student.dtype, jnp.float32)
    return student.astype(dtype), teacher.astype(dtype)


def _rows(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reshapes both to ``[n, c]``."""
    channels = student.shape[-1]
    return student.reshape(-1, channels), teacher.reshape(-1, channels)


def _kl(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Averages KL(softmax(teacher) || softmax(student)) over rows; skips -inf."""
    log_s, log_t = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    p_t = jnp.exp(log_t)
    # Both logarithms are -inf where p_t is exactly zero by construction.
    masked = jnp.isneginf(teacher)
    difference = jnp.where(masked, 0.0, log_t) - jnp.where(masked, 0.0, log_s)
    return jnp.mean(jnp.sum(p_t * difference, -1))


def _binary_logits(logits: jax.Array, is_target: jax.Array) -> jax.Array:
    """Returns the logits of (target class, rest), whose softmax is (p, 1 - p)."""
    others = jnp.where(is_target, -jnp.inf, logits)
    rest = jax.nn.logsumexp(others, axis=-1)
    return jnp.stack([jnp.sum(jnp.where(is_target, logits, 0.0), -1), rest], -1)


def _cosine(a: jax.Array, b: jax.Array, least: jax.Array | float) -> jax.Array:
    """Returns the cosine on the last axis; the norm of ``a`` is at least ``least``."""
    return jnp.sum(a * b, -1) / (jnp.maximum(_norm(a), least) * _norm(b) + 1e-8)


def _norm(a: jax.Array) -> jax.Array:
    """Returns the Euclidean norm, whose gradient at zero is zero instead of NaN."""
    square = jnp.sum(jnp.square(a), -1)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def _pearson(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns Pearson's correlation along the last axis."""
    centred_a, centred_b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    return _cosine(centred_a, centred_b, LEAST_VARIATION * _norm(a))
