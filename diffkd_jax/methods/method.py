"""What a method of distillation is: taps, and weights of the losses."""

from collections.abc import Mapping
from typing import NamedTuple

from ..core.losses import Weight
from ..core.taps import Tap


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
