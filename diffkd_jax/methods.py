"""Methods of distillation, as values: taps, and weights of the losses.

Each is a function of keyword arguments, which are its options in a config. One's own is
named by import path, ``--config.method=package.module:name``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .core.diffkd import DiffKD
from .core.distances import DISTANCES
from .core.fgd import Relation
from .core.fgd import fgd as fgd_distance
from .core.losses import Weight
from .core.taps import Tap
from .named import find, keywords


class Method(NamedTuple):
    """What is matched and how much each loss counts.

    Attributes:
      taps: tap by name.
      weights: by name of a loss, ``task`` and ``<tap>/distance``, ``<tap>/diffusion``,
        ``<tap>/autoencoder``; see :func:`diffkd_jax.core.losses.weigh`. Those not
        named count 1.
    """

    taps: Mapping[str, Tap]
    weights: Mapping[str, Weight] = {}


def none() -> Method:
    """The task alone.

    >>> none().taps
    {}
    """
    return Method({})


def kd(*, tau: float = 4.0, weight: float = 0.9, task_weight: float = 0.1) -> Method:
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


def dkd(*, tau: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> Method:
    """Decoupled KD of logits, see :func:`diffkd_jax.core.distances.dkd`."""
    distance = functools.partial(DISTANCES["dkd"], tau=tau, alpha=alpha, beta=beta)
    return Method({"logits": Tap("logits", "logits", distance)})


def dist(*, tau: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Method:
    """Correlations of logits, see :func:`diffkd_jax.core.distances.dist`."""
    distance = functools.partial(DISTANCES["dist"], tau=tau, beta=beta, gamma=gamma)
    return Method({"logits": Tap("logits", "logits", distance)})


def mse(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    weight: float = 1.0,
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


def cwd(*, tau: float = 4.0, output: str = "logits", weight: float = 3.0) -> Method:
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


def fgd(
    *,
    levels: Sequence[str] = ("p3", "p4", "p5", "p6", "p7"),
    temperature: float = 0.5,
    alpha: float = 1e-3,
    beta: float = 5e-4,
    gamma: float = 5e-4,
    relation: float = 5e-6,
) -> Method:
    """Focal and global distillation of a pyramid, see :mod:`diffkd_jax.core.fgd`.

    The weights are those of RetinaNet. Faster R-CNN, on ``p2`` to ``p5``, has 5e-5,
    2.5e-5, 5e-5 and 5e-7; FCOS, at a temperature of 0.8, 1.6e-3, 8e-4, 8e-4 and 8e-6.

    Args:
      levels: of both pyramids, ``fpn/<level>``; ``p3`` has a stride of 8 pixels.
      temperature: of the attentions.
      alpha: weight of errors in boxes.
      beta: weight of errors elsewhere.
      gamma: weight of the attentions' difference.
      relation: weight of the relations' difference, the paper's lambda.

    >>> method = fgd(levels=("p3", "p4"))
    >>> sorted(method.taps), method.taps["p4"].distance.keywords["stride"]
    (['p3', 'p4'], 16)
    """
    taps = {}
    for level in levels:
        if level[:1] != "p" or not level[1:].isdecimal():
            raise ValueError(
                f"methods.fgd.levels: found {level!r}, expected names such as 'p3'"
            )
        distance = functools.partial(
            fgd_distance,
            stride=2 ** int(level[1:]),
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
        )
        taps[level] = Tap(f"fpn/{level}", f"fpn/{level}", distance, Relation())
    return Method(taps, {f"{level}/relation": relation for level in levels})


def diffkd_features(
    *,
    student: str = "features",
    teacher: str = "features",
    distance: str = "mse",
    latent_channels: int | None = None,
    num_steps: int = 5,
    num_train_steps: int = 1000,
    weight: float = 1.0,
) -> Method:
    """DiffKD on features (paper, section 3).

    Args:
      student: output of the student.
      teacher: output of the teacher.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      latent_channels: width of the autoencoder, None for no autoencoder.
      num_steps: denoising steps.
      num_train_steps: diffusion time steps.
      weight: of the distance.

    >>> diffkd_features(num_steps=3).taps["features"].block.num_steps
    3
    """
    function = find(distance, DISTANCES, "methods.diffkd_features.distance")
    block = DiffKD(latent_channels, None, num_steps, num_train_steps)
    taps = {"features": Tap(student, teacher, function, block)}
    return Method(taps, {"features/distance": weight})


def diffkd_logits(
    *,
    distance: str = "kl",
    tau: float = 1.0,
    num_steps: int = 5,
    num_train_steps: int = 1000,
    weight: float = 1.0,
    aux_weight: float = 0.0,
) -> Method:
    """DiffKD on logits, or on their map before it is resized (paper, segmentation).

    Args:
      distance: a key of :data:`diffkd_jax.DISTANCES` that takes a temperature, or an
        import path of such a function.
      tau: temperature.
      num_steps: denoising steps.
      num_train_steps: diffusion time steps.
      weight: of the distance.
      aux_weight: of both losses of a second tap, on ``aux_logits``; 0 for none. The
        paper does not say whether maps have one; DIST's code has, with 0.4.

    >>> sorted(diffkd_logits(aux_weight=0.4).weights)
    ['aux_logits', 'logits/distance']
    """
    function = find(distance, DISTANCES, "methods.diffkd_logits.distance")
    block = DiffKD(num_steps=num_steps, num_train_steps=num_train_steps)
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
    latent_channels: int | None = None,
    logits_distance: str = "kl",
    tau: float = 1.0,
    num_steps: int = 5,
    num_train_steps: int = 1000,
    weight: float = 1.0,
    logits_weight: float = 1.0,
) -> Method:
    """DiffKD on features and logits, the method of the paper.

    Args:
      student, teacher, distance, latent_channels, weight: of
        :func:`diffkd_features`.
      logits_distance, tau, logits_weight: ``distance``, ``tau`` and ``weight`` of
        :func:`diffkd_logits`.
      num_steps, num_train_steps: of both.

    >>> sorted(diffkd().taps)
    ['features', 'logits']
    """
    find(logits_distance, DISTANCES, "methods.diffkd.logits_distance")
    steps = {"num_steps": num_steps, "num_train_steps": num_train_steps}
    features = diffkd_features(
        student=student,
        teacher=teacher,
        distance=distance,
        latent_channels=latent_channels,
        weight=weight,
        **steps,
    )
    logits = diffkd_logits(
        distance=logits_distance, tau=tau, weight=logits_weight, **steps
    )
    return Method(
        {**features.taps, **logits.taps}, {**features.weights, **logits.weights}
    )


def describe(method: Method) -> dict[str, Any]:
    """Plain values that tell methods apart, as records of 0.2.0 hold them.

    >>> describe(kd(tau=1.0))["taps"]["logits"]["options"]
    {'tau': 1.0}
    """
    taps = {}
    for name, tap in method.taps.items():
        function = getattr(tap.distance, "func", tap.distance)
        given = getattr(tap.distance, "keywords", {})
        options = keywords(function) | given
        options.pop("teacher", None), options.pop("target", None)
        block = tap.block if isinstance(tap.block, DiffKD) else None
        fields = ("latent_channels", "num_steps", "num_train_steps")
        taps[name] = {
            "student": tap.student,
            "teacher": tap.teacher,
            "distance": function.__name__,
            "options": options,
            "denoise": block and {field: getattr(block, field) for field in fields},
        }
    weights = {k: w for k, w in method.weights.items() if w != 1.0}
    return {"taps": taps, "weights": weights}


METHODS: dict[str, Callable[..., Method]] = {
    "none": none,
    "kd": kd,
    "dkd": dkd,
    "dist": dist,
    "mse": mse,
    "cwd": cwd,
    "fgd": fgd,
    "diffkd_features": diffkd_features,
    "diffkd_logits": diffkd_logits,
    "diffkd_map": functools.partial(diffkd_logits, distance="dist"),
    "diffkd": diffkd,
    "diffkd_dist": functools.partial(diffkd, logits_distance="dist"),
}
