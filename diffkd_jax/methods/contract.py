"""What a method of distillation is: taps, and weights of the losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..core.diffkd import DiffKD
from ..core.losses import Weight
from ..core.taps import Tap
from ..named import keywords


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


def describe(method: Method) -> dict[str, Any]:
    """Plain values that tell methods apart, as records of 0.2.0 hold them.

    >>> from diffkd_jax.methods.single import kd
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
