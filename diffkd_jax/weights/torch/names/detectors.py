"""Rename tables of the networks for detection, whose reference is torchvision.

"torchvision_2020" are the names in the files that torchvision published before 2022. It
renames them when it loads them.
"""

import re
from collections.abc import Callable

import flax.linen as nn

from ....models.dense.faster_rcnn import FasterRcnn
from ....models.dense.fcos import Fcos
from ....models.dense.retinanet import RetinaNet
from ..renaming import Rename, rename_part

_HEADS: Rename = (
    (r"^class_head$", "head.classification_head.cls_logits"),
    (r"^box_head$", "head.regression_head.bbox_reg"),
    (r"^centreness_head$", "head.regression_head.bbox_ctrness"),
)
_RPN: Rename = (
    (r"^rpn_class_head$", "rpn.head.cls_logits"),
    (r"^rpn_box_head$", "rpn.head.bbox_pred"),
    (r"^head_dense0$", "roi_heads.box_head.fc6"),
    (r"^head_dense1$", "roi_heads.box_head.fc7"),
    (r"^class_head$", "roi_heads.box_predictor.cls_score"),
    (r"^box_head$", "roi_heads.box_predictor.bbox_pred"),
)
_RPN_TOWER = r"^rpn_tower/conv0$"
_TOWERS = (
    ("class_tower", "head.classification_head.conv"),
    ("box_tower", "head.regression_head.conv"),
)


def detector_names(
    module: FasterRcnn | Fcos | RetinaNet, resnet: Rename
) -> dict[str, Rename]:
    """Returns the rename tables of a detector by the name of the reference.

    Args:
      module: a network for detection.
      resnet: the table of its backbone.

    Returns:
      The tables, that of the present names first. There are none for an FCOS with
      ``level_scales``, which torchvision does not have.

    >>> from diffkd_jax.models import build_network
    >>> module = build_network("retinanet_resnet18", num_classes=2)
    >>> list(detector_names(module, (("stem", "conv1"),)))
    ['torchvision', 'torchvision_2020']
    """
    body = rename_part("backbone", "backbone.body", resnet)
    new, old = (_pyramid(module.levels[0], old=old) for old in (False, True))
    if isinstance(module, FasterRcnn):
        new_heads, old_heads = (
            ((_RPN_TOWER, f"rpn.head.conv{tail}"), *_RPN) for tail in (".0.0", "")
        )
    elif isinstance(module, RetinaNet):
        new_heads, old_heads = ((*_tower("conv", step), *_HEADS) for step in (0, 2))
    elif module.level_scales:
        return {}
    else:
        new_heads = (*_tower("conv", 3, 0), *_tower("norm", 3, 1), *_HEADS)
        old_heads = new_heads
    return {
        "torchvision": (*body, *new, *new_heads),
        "torchvision_2020": (*body, *old, *old_heads),
    }


def _tower(part: str, step: int = 0, first: int = 0) -> Rename:
    """Returns the entries for the layers of both towers.

    Layer ``i`` is number ``step * i + first`` of a sequence, or a sequence of its own
    if ``step`` is 0.
    """

    def number(name: str) -> str | Callable[[re.Match[str]], str]:
        if not step:
            return rf"{name}.\1.0"
        return lambda m: f"{name}.{step * int(m[1]) + first}"

    return tuple((rf"^{tower}/{part}(\d+)$", number(name)) for tower, name in _TOWERS)


def _pyramid(lowest: str, *, old: bool = False) -> Rename:
    """Returns the entries for the pyramid, whose blocks count from its lowest level."""
    first, tail = int(lowest[1]), "" if old else ".0"

    def block(kind: str) -> Callable[[re.Match[str]], str]:
        return lambda m: f"backbone.fpn.{kind}.{int(m[1]) - first}{tail}"

    return (
        (r"^fpn/lateral_p(\d)$", block("inner_blocks")),
        (r"^fpn/output_p(\d)$", block("layer_blocks")),
        (r"^fpn/extra_", "backbone.fpn.extra_blocks."),
    )


def class_rows(module: nn.Module) -> tuple[str, int, int]:
    """Returns the layer of a network that has rows for each class, and their number.

    Args:
      module: a network.

    Returns:
      The path of the layer; the number of its rows for each class; and the number of
      its classes that are not in the data, such as 1 for the background.

    >>> from diffkd_jax.models import build_network
    >>> class_rows(build_network("retinanet_resnet18", num_classes=2))
    ('class_head', 9, 0)
    """
    if isinstance(module, RetinaNet):
        return "class_head", len(module.scales) * len(module.ratios), 0
    if isinstance(module, FasterRcnn):
        return "class_head", 1, 1  # the background
    return ("class_head" if isinstance(module, Fcos) else "head"), 1, 0
