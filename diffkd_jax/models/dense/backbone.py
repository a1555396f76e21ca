"""Backbones inside networks for dense tasks."""

from typing import Any

import flax.linen as nn

from ..options import option_names

# Options that a network passes on to its backbone if both have them.
BACKBONE_OPTIONS = (
    *("channels", "deep_stem", "norm_train", "output_stride"),
    *("stride_in_first", "width"),
)


def backbone_of(
    module: Any, num_classes: int = 0, name: str | None = None
) -> nn.Module:
    """Builds the backbone of a network for dense tasks, by default without a head.

    The backbone takes over the options that the network also has, see
    :data:`BACKBONE_OPTIONS`.

    Args:
      module: a network with the field ``make_backbone``. In its compact method, the
        backbone becomes a part of the network.
      num_classes: number of classes of the head, 0 for no head.
      name: name of the backbone in the network.

    Returns:
      The module of the backbone.

    >>> from diffkd_jax.models import build_network
    >>> backbone_of(build_network("deeplabv3_resnet8", num_classes=5)).num_classes
    0
    """
    accepted = option_names(module.make_backbone)
    values = {n: getattr(module, n, None) for n in BACKBONE_OPTIONS if n in accepted}
    options = {n: value for n, value in values.items() if value is not None}
    options |= {"norm_group_size": module.norm_group_size, "dtype": module.dtype}
    return module.make_backbone(num_classes=num_classes, name=name, **options)
