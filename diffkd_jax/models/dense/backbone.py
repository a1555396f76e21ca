"""The backbones of networks for dense tasks."""

from typing import Any

import flax.linen as nn

from ..options import option_names

# Options that are handed on to the backbone, where it and the network have them.
OF_BACKBONES = (
    *("channels", "deep_stem", "norm_train", "output_stride"),
    *("stride_in_first", "width"),
)


def backbone_of(
    module: Any, num_classes: int = 0, name: str | None = None
) -> nn.Module:
    """The backbone of a network, by default without a head.

    Args:
      module: a network with ``make_backbone``, in whose compact method it may be.
      num_classes: of the head, 0 for none.
      name: of the backbone in the network.

    >>> from diffkd_jax.models import build_network
    >>> backbone_of(build_network("deeplabv3_resnet8", num_classes=5)).num_classes
    0
    """
    taken = option_names(module.make_backbone)
    given = {n: getattr(module, n, None) for n in OF_BACKBONES if n in taken}
    options = {n: value for n, value in given.items() if value is not None}
    options |= {"norm_group_size": module.norm_group_size, "dtype": module.dtype}
    return module.make_backbone(num_classes=num_classes, name=name, **options)
