"""The value that describes a method of distillation: taps, and weights of losses."""

from collections.abc import Mapping
from typing import NamedTuple

from ..core.losses import Weight
from ..core.taps import Tap


class Method(NamedTuple):
    """The outputs that a method matches, and the weight of each loss.

    Attributes:
      taps: taps by name.
      weights: weights by name of a loss: ``task``, ``<tap>/distance``,
        ``<tap>/diffusion``, ``<tap>/autoencoder``; losses without a weight count 1. See
        :func:`diffkd_jax.core.losses.weigh`.

    >>> kd = Method({"kd": Tap("logits", "logits")}, {"kd/distance": 2.0})
    >>> kd.taps["kd"].student, kd.weights
    ('logits', {'kd/distance': 2.0})
    """

    taps: Mapping[str, Tap]
    weights: Mapping[str, Weight] = {}
