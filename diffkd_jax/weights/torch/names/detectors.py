"""How torchvision names what our networks of detection name.

"torchvision_2020" are the names in the files that it published before 2022: it renames
them when it loads them.
"""

import flax.linen as nn

from ....models.dense.faster_rcnn import FasterRcnn
from ....models.dense.fcos import Fcos
from ....models.dense.retinanet import RetinaNet
from ..renaming import Rename, within

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
    """Rename tables by the name of the reference; the first is usual.

    Args:
      module: a network of detection.
      resnet: the table of its backbone.
    """
    body = within("backbone", "backbone.body", resnet)
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
    """Of the layers of both towers: every ``step``th of a sequence, or nested."""

    def number(name):
        if not step:
            return rf"{name}.\1.0"
        return lambda m: f"{name}.{step * int(m[1]) + first}"

    return tuple((rf"^{ours}/{part}(\d+)$", number(name)) for ours, name in _TOWERS)


def _pyramid(lowest: str, *, old: bool = False) -> Rename:
    """Of the pyramid, whose blocks are counted from the lowest level."""
    first, tail = int(lowest[1]), "" if old else ".0"

    def block(kind):
        return lambda m: f"backbone.fpn.{kind}.{int(m[1]) - first}{tail}"

    return (
        (r"^fpn/lateral_p(\d)$", block("inner_blocks")),
        (r"^fpn/output_p(\d)$", block("layer_blocks")),
        (r"^fpn/extra_", "backbone.fpn.extra_blocks."),
    )


def class_rows(module: nn.Module) -> tuple[str, int, int]:
    """Path of a model's last layer for classes, its rows for each, and further rows.

    >>> from diffkd_jax.models import build_network
    >>> class_rows(build_network("retinanet_resnet18", num_classes=2))
    ('class_head', 9, 0)
    """
    if isinstance(module, RetinaNet):
        return "class_head", len(module.scales) * len(module.ratios), 0
    if isinstance(module, FasterRcnn):
        return "class_head", 1, 1  # of the background
    return ("class_head" if isinstance(module, Fcos) else "head"), 1, 0
