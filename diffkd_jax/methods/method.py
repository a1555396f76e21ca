"""The value that describes a method of distillation: taps, and weights of losses."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from ..core.losses import Weight
from ..core.taps import Tap

# Sources of the teacher: the config, random initial values, or a training of the
# student without distillation.
TeacherSource = Literal["config", "random", "student"]


class Method(NamedTuple):
    """The outputs that a method matches, and the weight of each loss.

    Attributes:
      taps: taps by name.
      weights: weights by name of a loss: ``task``, ``<tap>/distance``,
        ``<tap>/diffusion``, ``<tap>/autoencoder``; losses without a weight count 1. See
        :func:`diffkd_jax.core.losses.weigh`.
      teacher: source of the teacher. ``config`` stands for the section ``teacher`` of
        the config. With ``random``, that network keeps its random initial values. With
        ``student``, the teacher is the student after a training without distillation.

    >>> kd = Method({"kd": Tap("logits", "logits")}, {"kd/distance": 2.0})
    >>> kd.taps["kd"].student, kd.weights
    ('logits', {'kd/distance': 2.0})
    """

    taps: Mapping[str, Tap]
    weights: Mapping[str, Weight] = {}
    teacher: TeacherSource = "config"
