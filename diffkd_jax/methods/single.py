"""Methods on one or two outputs: features, logits, or both."""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field

from ..bounds import Channels, Factor, Positive, Share, Weight
from ..core.diffkd import DiffKD
from ..core.distances import DISTANCES
from ..core.taps import Tap
from ..named import find
from .method import Method

Steps = Annotated[int, Field(ge=0, le=1000)]
TrainSteps = Annotated[int, Field(ge=1, le=1280)]
Gradient = Literal["full", "inputs", "straight"]
Denoiser = Literal["diffusion", "distance", "frozen", "regressor"]


def none() -> Method:
    """Returns the method without distillation, which trains on the task alone.

    >>> none().taps
    {}
    """
    return Method({})


def kd(
    *, tau: Positive = 4.0, weight: Weight = 0.9, task_weight: Weight = 0.1
) -> Method:
    """Returns knowledge distillation of softened logits (Hinton et al. 2015).

    Args:
      tau: temperature.
      weight: weight of the distance.
      task_weight: weight of the task's loss.

    >>> kd(tau=1.0).weights["task"]
    0.1
    """
    distance = functools.partial(DISTANCES["kl"], tau=tau)
    weights = {"task": task_weight, "logits/distance": weight}
    return Method({"logits": Tap("logits", "logits", distance)}, weights)


def dkd(*, tau: Positive = 4.0, alpha: Weight = 1.0, beta: Weight = 8.0) -> Method:
    """Returns decoupled KD of logits, see :func:`diffkd_jax.core.distances.dkd`.

    Args:
      tau: temperature.
      alpha: weight of the term for the target class.
      beta: weight of the term for the other classes.

    >>> sorted(dkd().taps)
    ['logits']
    """
    distance = functools.partial(DISTANCES["dkd"], tau=tau, alpha=alpha, beta=beta)
    return Method({"logits": Tap("logits", "logits", distance)})


def dist(*, tau: Positive = 1.0, beta: Weight = 1.0, gamma: Weight = 1.0) -> Method:
    """Returns DIST on logits, see :func:`diffkd_jax.core.distances.dist`.

    Args:
      tau: temperature.
      beta: weight of the correlation between classes.
      gamma: weight of the correlation within classes.

    >>> sorted(dist().taps)
    ['logits']
    """
    distance = functools.partial(DISTANCES["dist"], tau=tau, beta=beta, gamma=gamma)
    return Method({"logits": Tap("logits", "logits", distance)})


def mse(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    weight: Weight = 1.0,
) -> Method:
    """Returns the method that compares features directly, without denoising.

    The student is projected if the numbers of channels differ.

    Args:
      student: name of the student's output.
      teacher: name of the teacher's output.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      weight: weight of the distance.

    >>> mse(weight=2.0).weights
    {'features/distance': 2.0}
    """
    function = find(distance, DISTANCES, "distance")
    taps = {"features": Tap(student, teacher, function)}
    return Method(taps, {"features/distance": weight})


def cwd(*, tau: Positive = 4.0, output: str = "logits", weight: Weight = 3.0) -> Method:
    """Returns channel-wise distillation, see :func:`diffkd_jax.core.distances.cwd`.

    Args:
      tau: temperature.
      output: name of the output in both models; the student is projected if channels
        differ.
      weight: weight of the distance: 3 for logits, 50 for features (Shu et al. 2021).

    >>> cwd(output="features", weight=50.0).weights
    {'features/distance': 50.0}
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
    denoiser: Denoiser = "diffusion",
    gamma: Share | None = None,
    min_noise: Share = 0.0,
    time_aware: bool = False,
    predictor_width: Factor = 1.0,
    weight: Weight = 1.0,
) -> Method:
    """Returns DiffKD on features (paper, section 3).

    Args:
      student: name of the student's output.
      teacher: name of the teacher's output.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      latent_channels: width of the autoencoder, or None for no autoencoder.
      num_steps: number of denoising steps; 0 for projections and noise matching alone.
      num_train_steps: number of diffusion time steps.
      gradient: how denoising is differentiated, see :class:`diffkd_jax.DiffKD`.
      denoiser: the network that denoises and what trains it, see the same class. All
        values but "diffusion" are controls.
      gamma: share of the student that noise matching keeps; None to learn it.
      min_noise: smallest share of noise in the student, an upper bound of gamma; 0 in
        the paper.
      time_aware: let denoising depend on the time step, which the paper's does not, see
        :class:`diffkd_jax.DiffKD`.
      predictor_width: factor of the inner widths of the noise predictor; 1 in the
        paper.
      weight: weight of the distance.

    >>> diffkd_features(num_steps=3).taps["features"].block.num_steps
    3
    """
    function = find(distance, DISTANCES, "distance")
    block = DiffKD(
        latent_channels,
        None,
        num_steps,
        num_train_steps,
        gradient=gradient,
        denoiser=denoiser,
        gamma=gamma,
        min_noise=min_noise,
        time_aware=time_aware,
        predictor_width=predictor_width,
    )
    taps = {"features": Tap(student, teacher, function, block)}
    return Method(taps, {"features/distance": weight})


def diffkd_logits(
    *,
    distance: str = "kl",
    tau: Positive = 1.0,
    num_steps: Steps = 5,
    num_train_steps: TrainSteps = 1000,
    gradient: Gradient = "full",
    denoiser: Denoiser = "diffusion",
    gamma: Share | None = None,
    min_noise: Share = 0.0,
    time_aware: bool = False,
    predictor_width: Factor = 1.0,
    weight: Weight = 1.0,
    aux_weight: Weight = 0.0,
) -> Method:
    """Returns DiffKD on logits, or on the map of logits before resizing (segmentation).

    Args:
      distance: a key of :data:`diffkd_jax.DISTANCES` that takes a temperature, or an
        import path of such a function.
      tau: temperature.
      num_steps: number of denoising steps; 0 for projections and noise matching alone.
      num_train_steps: number of diffusion time steps.
      gradient: how denoising is differentiated, see :class:`diffkd_jax.DiffKD`.
      denoiser: the network that denoises and what trains it, see the same class. All
        values but "diffusion" are controls.
      gamma: share of the student that noise matching keeps; None to learn it.
      min_noise: smallest share of noise in the student, an upper bound of gamma; 0 in
        the paper.
      time_aware: let denoising depend on the time step, which the paper's does not, see
        :class:`diffkd_jax.DiffKD`.
      predictor_width: factor of the inner widths of the noise predictor; 1 in the
        paper.
      weight: weight of the distance.
      aux_weight: weight of all losses of a second tap, on the output ``aux_logits`` of
        the auxiliary head; 0 for no such tap. The paper does not say whether it uses
        such a tap in segmentation. DIST's code has one, with weight 0.4.

    >>> sorted(diffkd_logits(aux_weight=0.4).weights)
    ['aux_logits', 'logits/distance']
    """
    function = find(distance, DISTANCES, "distance")
    block = DiffKD(
        None,
        None,
        num_steps,
        num_train_steps,
        gradient=gradient,
        denoiser=denoiser,
        gamma=gamma,
        min_noise=min_noise,
        time_aware=time_aware,
        predictor_width=predictor_width,
    )
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
    denoiser: Denoiser = "diffusion",
    gamma: Share | None = None,
    min_noise: Share = 0.0,
    time_aware: bool = False,
    predictor_width: Factor = 1.0,
    weight: Weight = 1.0,
    logits_weight: Weight = 1.0,
) -> Method:
    """Returns DiffKD on features and logits, the method of the paper.

    Args:
      student: name of the student's output of features.
      teacher: name of the teacher's output of features.
      distance: distance of features, see :func:`diffkd_features`.
      latent_channels: width of the autoencoder of features, or None for no autoencoder.
      logits_distance: distance of logits, see :func:`diffkd_logits`.
      tau: temperature of the distance of logits.
      num_steps: number of denoising steps, for both; 0 as in :func:`diffkd_features`.
      num_train_steps: number of diffusion time steps, for both.
      gradient: how denoising is differentiated, for both.
      denoiser: the network that denoises and what trains it, for both.
      gamma: share of the student that noise matching keeps, for both; None to learn it.
      min_noise: smallest share of noise, for both, see :func:`diffkd_features`.
      time_aware: let denoising depend on the time step, for both.
      predictor_width: factor of the inner widths of the noise predictors, for both.
      weight: weight of the distance of features.
      logits_weight: weight of the distance of logits.

    >>> sorted(diffkd().taps)
    ['features', 'logits']
    """
    find(logits_distance, DISTANCES, "logits_distance")
    shared: dict[str, Any] = {"num_steps": num_steps, "gradient": gradient}
    shared |= {"num_train_steps": num_train_steps, "denoiser": denoiser, "gamma": gamma}
    shared |= {"min_noise": min_noise, "time_aware": time_aware}
    shared |= {"predictor_width": predictor_width}
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
