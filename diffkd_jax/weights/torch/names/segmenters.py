"""Rename tables of the networks for segmentation.

"cirkd" is the network family of CIRKD. The paper's table 6 uses its checkpoints.
"""

from collections.abc import Container

import flax.linen as nn

from ....models.backbones.mobilenet import MobileNetV2
from ....models.backbones.resnet import ResNet
from ....models.dense.backbone import backbone_of
from ....models.dense.segmenter import Segmenter
from ..renaming import Rename, rename_part, rename_path


def _conv_norm(path: str, conv: str, norm: str) -> Rename:
    """Returns the entries for a convolution and its norm."""
    return ((rf"^{path}/conv$", conv), (rf"^{path}/norm$", norm))


_CIRKD_ASPP: Rename = (
    *_conv_norm("aspp/branch0", "head.aspp.b0.0", "head.aspp.b0.1"),
    *_conv_norm(r"aspp/branch(\d)", r"head.aspp.b\1.block.0", r"head.aspp.b\1.block.1"),
    *_conv_norm("aspp/pooled", "head.aspp.b4.gap.1", "head.aspp.b4.gap.2"),
    *_conv_norm("aspp/project", "head.aspp.project.0", "head.aspp.project.1"),
    (r"^head$", "head.block.4"),
)
_CIRKD_PYRAMID: Rename = (
    (r"^pyramid/level(\d)/conv$", lambda m: f"head.psp.conv{int(m[1]) + 1}.0"),
    (r"^pyramid/level(\d)/norm$", lambda m: f"head.psp.conv{int(m[1]) + 1}.1"),
    (r"^head$", "head.classifier"),
)
_CIRKD_HEADS: Rename = (
    *_conv_norm("block", "head.block.0", "head.block.1"),
    *_conv_norm("aux_block", "auxlayer.block.0", "auxlayer.block.1"),
    (r"^aux_head$", "auxlayer.block.4"),
)
TORCHVISION_HEADS: Rename = (
    *_conv_norm("aspp/pooled", "classifier.0.convs.4.1", "classifier.0.convs.4.2"),
    *_conv_norm(
        r"aspp/branch(\d)", r"classifier.0.convs.\1.0", r"classifier.0.convs.\1.1"
    ),
    *_conv_norm("aspp/project", "classifier.0.project.0", "classifier.0.project.1"),
    *_conv_norm("block", "classifier.1", "classifier.2"),
    (r"^head$", "classifier.4"),
    *_conv_norm("aux_block", "aux_classifier.0", "aux_classifier.1"),
    (r"^aux_head$", "aux_classifier.4"),
)


def segmenter_names(
    module: Segmenter, resnet: Rename, flat_mobilenet: Rename
) -> dict[str, Rename]:
    """Returns the rename tables of a segmenter by the name of the reference.

    Args:
      module: the network.
      resnet: the table of its backbone, if that is a ResNet.
      flat_mobilenet: the table of its backbone in the names of CIRKD, if that is a
        MobileNetV2.

    Returns:
      The tables, the most common reference first; none for another backbone.

    >>> from diffkd_jax.models import build_network
    >>> module = build_network("deeplabv3_resnet18", num_classes=2)
    >>> list(segmenter_names(module, (("stem", "conv1"),), ()))
    ['cirkd']
    """
    body = backbone_of(module)
    if isinstance(body, MobileNetV2):
        backbone = rename_part("backbone", "pretrained.net", flat_mobilenet)
    elif isinstance(body, ResNet):
        backbone = rename_part("backbone", "pretrained", resnet)
    else:
        return {}
    is_aspp = module.kind == "aspp"
    head = _CIRKD_ASPP if is_aspp else _CIRKD_PYRAMID
    cirkd = {"cirkd": (*backbone, *head, *_CIRKD_HEADS)}
    is_plain = isinstance(body, ResNet) and body.bottleneck and not body.deep_stem
    if not (is_aspp and is_plain):
        return cirkd
    backbone = rename_part("backbone", "backbone", resnet)
    return {"torchvision": (*backbone, *TORCHVISION_HEADS)} | cirkd


def check_segmenter(
    module: nn.Module, names: Container[str], tables: dict[str, Rename]
) -> None:
    """Raises an error if a state dict is of a segmenter with other options.

    Args:
      module: the network. Networks that are not segmenters are not checked.
      names: the names in the state dict.
      tables: the rename tables of the network, see :func:`segmenter_names`.

    Raises:
      ValueError: the state dict is of torchvision's network and the module is of the
        paper's family, or only one of them has an auxiliary head.

    >>> from diffkd_jax.models import build_network
    >>> check_segmenter(build_network("resnet8", num_classes=2), {"fc.bias"}, {})
    """
    if not isinstance(module, Segmenter):
        return
    if "torchvision" not in tables and "classifier.0.project.0.weight" in names:
        raise ValueError(
            "found a DeepLabV3 of torchvision, expected one of CIRKD; the options for "
            'the former are {"deep_stem": false, "align_corners": false, '
            '"head_dropout": 0.0}'
        )
    for table in tables.values():
        main, auxiliary = (
            f"{rename_path(part, table)}.weight" for part in ("head", "aux_head")
        )
        if main in names and (auxiliary in names) != module.aux:
            in_file, expected = ("none", "one") if module.aux else ("one", "none")
            raise ValueError(
                f"auxiliary head: found {in_file} in the file, expected {expected} "
                f"({auxiliary!r}); the option aux says whether the model has one"
            )
