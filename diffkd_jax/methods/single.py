"""Methods of one or two outputs: features, logits, or both."""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field

from ..bounds import Channels, Positive, Weight
from ..core.diffkd import DiffKD
from ..core.distances import DISTANCES
from ..core.taps import Tap
from ..named import find
from .method import Method

Steps = Annotated[int, Field(ge=1, le=1000)]
TrainSteps = Annotated[int, Field(ge=1, le=1280)]
Gradient = Literal["full", "inputs", "straight"]


def none() -> Method:
    """The task alone.

    >>> none().taps
    {}
    """
    return Method({})


def kd(
    *, tau: Positive = 4.0, weight: Weight = 0.9, task_weight: Weight = 0.1
) -> Method:
    """Softened logits (Hinton et al. 2015).

    Args:
      tau: temperature.
      weight: of the distance.
      task_weight: of the task.

    >>> kd(tau=1.0).weights["task"]
    0.1
    """
    distance = functools.partial(DISTANCES["kl"], tau=tau)
    weights = {"task": task_weight, "logits/distance": weight}
    return Method({"logits": Tap("logits", "logits", distance)}, weights)


def dkd(*, tau: Positive = 4.0, alpha: Weight = 1.0, beta: Weight = 8.0) -> Method:
    """Decoupled KD of logits, see :func:`diffkd_jax.core.distances.dkd`."""
    distance = functools.partial(DISTANCES["dkd"], tau=tau, alpha=alpha, beta=beta)
    return Method({"logits": Tap("logits", "logits", distance)})


def dist(*, tau: Positive = 1.0, beta: Weight = 1.0, gamma: Weight = 1.0) -> Method:
    """Correlations of logits, see :func:`diffkd_jax.core.distances.dist`."""
    distance = functools.partial(DISTANCES["dist"], tau=tau, beta=beta, gamma=gamma)
    return Method({"logits": Tap("logits", "logits", distance)})


def mse(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    weight: Weight = 1.0,
) -> Method:
    """A direct comparison of features, the student projected where channels differ.

    Args:
      student: output of the student.
      teacher: output of the teacher.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      weight: of the distance.
    """
    function = find(distance, DISTANCES, "methods.mse.distance")
    taps = {"features": Tap(student, teacher, function)}
    return Method(taps, {"features/distance": weight})


def cwd(*, tau: Positive = 4.0, output: str = "logits", weight: Weight = 3.0) -> Method:
    """Channel-wise distillation of maps, see :func:`diffkd_jax.core.distances.cwd`.

    Args:
      tau: temperature.
      output: of both models; the student is projected where channels differ.
      weight: of the distance: 3 for logits, 50 for features (Shu et al. 2021).
    """
    distance = functools.partial(DISTANCES["cwd"], tau=tau)
    return Method(
        {output: Tap(output, output, distance)}, {f"{output}/distance": weight}
    )


def diffkd_features(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    latent_channels: Channels | None = None,
    num_steps: Steps = 5,
    num_train_steps: TrainSteps = 1000,
    gradient: Gradient = "full",
    weight: Weight = 1.0,
) -> Method:
    """DiffKD on features (paper, section 3).

    Args:
      student: output of the student.
      teacher: output of the teacher.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      latent_channels: width of the autoencoder, None for no autoencoder.
      num_steps: denoising steps.
      num_train_steps: diffusion time steps.
      gradient: through denoising, see :class:`diffkd_jax.DiffKD`.
      weight: of the distance.

    >>> diffkd_features(num_steps=3).taps["features"].block.num_steps
    3
    """
    function = find(distance, DISTANCES, "methods.diffkd_features.distance")
    block = DiffKD(latent_channels, None, num_steps, num_train_steps, gradient=gradient)
    taps = {"features": Tap(student, teacher, function, block)}
    return Method(taps, {"features/distance": weight})


def diffkd_logits(
    *,
    distance: str = "kl",
    tau: Positive = 1.0,
    num_steps: Steps = 5,
    num_train_steps: TrainSteps = 1000,
    gradient: Gradient = "full",
    weight: Weight = 1.0,
    aux_weight: Weight = 0.0,
) -> Method:
    """DiffKD on logits, or on their map before it is resized (paper, segmentation).

    Args:
      distance: a key of :data:`diffkd_jax.DISTANCES` that takes a temperature, or an
        import path of such a function.
      tau: temperature.
      num_steps: denoising steps.
      num_train_steps: diffusion time steps.
      gradient: through denoising, see :class:`diffkd_jax.DiffKD`.
      weight: of the distance.
      aux_weight: of both losses of a second tap, on ``aux_logits``; 0 for none. The
        paper does not say whether maps have one; DIST's code has, with 0.4.

    >>> sorted(diffkd_logits(aux_weight=0.4).weights)
    ['aux_logits', 'logits/distance']
    """
    function = find(distance, DISTANCES, "methods.diffkd_logits.distance")
    block = DiffKD(None, None, num_steps, num_train_steps, gradient=gradient)
    distance_of = functools.partial(function, tau=tau)
    weights = {"logits/distance": weight} | (
        {"aux_logits": aux_weight} if aux_weight else {}
    )
    outputs = ("logits", "aux_logits") if aux_weight else ("logits",)
    return Method({n: Tap(n, n, distance_of, block) for n in outputs}, weights)


def diffkd(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    latent_channels: Channels | None = None,
    logits_distance: str = "kl",
    tau: Positive = 1.0,
    num_steps: Steps = 5,
    num_train_steps: TrainSteps = 1000,
    gradient: Gradient = "full",
    weight: Weight = 1.0,
    logits_weight: Weight = 1.0,
) -> Method:
    """DiffKD on features and logits, the method of the paper.

    Args:
      student, teacher, distance, latent_channels, weight: of
        :func:`diffkd_features`.
      logits_distance, tau, logits_weight: ``distance``, ``tau`` and ``weight`` of
        :func:`diffkd_logits`.
      num_steps, num_train_steps, gradient: of both.

    >>> sorted(diffkd().taps)
    ['features', 'logits']
    """
    find(logits_distance, DISTANCES, "methods.diffkd.logits_distance")
    shared: dict[str, Any] = {"num_steps": num_steps, "gradient": gradient}
    shared["num_train_steps"] = num_train_steps
    features = diffkd_features(
        student=student,
        teacher=teacher,
        distance=distance,
        latent_channels=latent_channels,
        weight=weight,
        **shared,
    )
    logits = diffkd_logits(
        distance=logits_distance, tau=tau, weight=logits_weight, **shared
    )
    return Method(
        {**features.taps, **logits.taps}, {**features.weights, **logits.weights}
    )
