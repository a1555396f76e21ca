"""How torchvision names what our networks of detection name.

"torchvision_2020" are the names in the files that it published before 2022: it renames
them when it loads them.
"""

from typing import Any

from .renaming import Rename, within

_HEADS: Rename = (
    (r"^class_head$", "head.classification_head.cls_logits"),
    (r"^box_head$", "head.regression_head.bbox_reg"),
)
_TOWERS = (
    ("class_tower", "head.classification_head.conv"),
    ("box_tower", "head.regression_head.conv"),
)


def retinanet_names(module: Any, resnet: Rename) -> dict[str, Rename]:
    """Rename tables by the name of the reference; the first is usual.

    Args:
      module: a :class:`diffkd_jax.models.retinanet.RetinaNet`.
      resnet: the table of its backbone.
    """
    new = [(rf"^{ours}/conv(\d+)$", rf"{name}.\1.0") for ours, name in _TOWERS]
    old = [
        (rf"^{ours}/conv(\d+)$", lambda m, name=name: f"{name}.{2 * int(m[1])}")
        for ours, name in _TOWERS
    ]
    body = within("backbone", "backbone.body", resnet)
    lowest = module.levels[0]
    return {
        "torchvision": (*body, *_pyramid(lowest), *new, *_HEADS),
        "torchvision_2020": (*body, *_pyramid(lowest, old=True), *old, *_HEADS),
    }


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
