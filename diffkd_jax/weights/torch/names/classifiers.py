"""Rename tables of the classifiers, see :mod:`diffkd_jax.weights.torch.renaming`."""

import flax.linen as nn

from ....models.backbones.cifar_resnet import CifarResNet
from ....models.backbones.efficientnet import EfficientNet
from ....models.backbones.mobilenet import (
    V1_BLOCKS,
    V2_STAGES,
    MobileNetV1,
    MobileNetV2,
)
from ....models.backbones.resnet import ResNet
from ....models.backbones.shufflenet import ShuffleNetV1, ShuffleNetV2
from ....models.backbones.swin import Swin
from ....models.backbones.vgg import Vgg
from ....models.backbones.wrn import WideResNet
from ....models.dense.faster_rcnn import FasterRcnn
from ....models.dense.fcos import Fcos
from ....models.dense.retinanet import RetinaNet
from ....models.dense.segmenter import Segmenter
from ..renaming import Rename, add_one, number_blocks
from .detectors import detector_names
from .segmenters import segmenter_names
from .swin import MICROSOFT_SWIN, TIMM_SWIN, TORCHVISION_SWIN


def references(module: nn.Module) -> dict[str, Rename]:
    """Returns the rename tables of a network by reference.

    A reference is a PyTorch code base that defines the network, such as "torchvision".

    Args:
      module: a network of :mod:`diffkd_jax.models`.

    Returns:
      The tables, the most common reference first; none for a module that no reference
      defines.

    >>> list(references(MobileNetV1(10)))
    ['official']
    """
    if isinstance(module, Segmenter):
        return segmenter_names(module, _RESNET, _CIRKD_MOBILENET_V2)
    if isinstance(module, FasterRcnn | Fcos | RetinaNet):
        return detector_names(module, _RESNET)
    if isinstance(module, ResNet) and module.small_images:
        return {"cifar": _CIFAR_RESNET50}
    if isinstance(module, ResNet):
        return {"cirkd" if module.deep_stem else "torchvision": _RESNET}
    if isinstance(module, MobileNetV2) and module.small_images:
        return {"cifar": _CIFAR_MOBILENET_V2}
    if isinstance(module, MobileNetV2):
        return {"torchvision": _MOBILENET_V2, "timm": _TIMM_MOBILE}
    if isinstance(module, EfficientNet):
        tables = {"timm": _TIMM_MOBILE, "efficientnet_pytorch": _flat_names(module)}
        return tables if module.lite else {"torchvision": _EFFICIENTNET} | tables
    return _TABLES.get(type(module), {})


_STEM: Rename = ((r"^stem/conv$", "conv1"), (r"^stem/norm$", "bn1"))
_NUMBERED: Rename = (
    (r"conv(\d)/conv$", add_one("conv")),
    (r"conv(\d)/norm$", add_one("bn")),
)
_RESNET: Rename = (
    *_STEM,
    (r"^stem_(?=conv)", ""),
    (r"^stage(\d)/block(\d+)/", r"layer\1.\2."),
    (r"shortcut/conv$", "downsample.0"),
    (r"shortcut/norm$", "downsample.1"),
    *_NUMBERED,
    (r"^head$", "fc"),
)
_CIFAR_RESNET50: Rename = (
    (r"shortcut/conv$", "shortcut.0"),
    (r"shortcut/norm$", "shortcut.1"),
    (r"^head$", "linear"),
    *_RESNET,
)
_WRN: Rename = (
    (r"^stem$", "conv1"),
    (r"^stage(\d)_block(\d+)/", r"block\1.layer.\2."),
    (r"\.shortcut$", ".convShortcut"),
    (r"\.conv1$", ".conv2"),
    (r"\.conv0/conv$", ".conv1"),
    (r"\.conv0/norm$", ".bn2"),
    (r"\.norm$", ".bn1"),
    (r"^last_norm$", "bn1"),
    (r"^head$", "fc"),
)
_VGG: Rename = (
    (
        r"^stage(\d)_conv(\d)/conv$",
        lambda m: f"block{int(m[1]) - 1}.{3 * int(m[2])}",
    ),
    (
        r"^stage(\d)_conv(\d)/norm$",
        lambda m: f"block{int(m[1]) - 1}.{3 * int(m[2]) + 1}",
    ),
    (r"^head$", "classifier"),
)
_SHUFFLENET: Rename = (
    *_STEM,
    (r"^last_conv/conv$", "conv2"),
    (r"^last_conv/norm$", "bn2"),
    (r"^stage(\d)_block(\d+)/", r"layer\1.\2."),
    *_NUMBERED,
    (r"^head$", "linear"),
)
_MOBILENET_V1: Rename = (
    (r"^stem/conv$", "model.0.0"),
    (r"^stem/norm$", "model.0.1"),
    (r"^stage(\d)_block(\d)", number_blocks([*map(len, V1_BLOCKS)], "model.{}", 1)),
    (r"_depthwise/conv$", ".0"),
    (r"_depthwise/norm$", ".1"),
    (r"_pointwise/conv$", ".3"),
    (r"_pointwise/norm$", ".4"),
    (r"^head$", "fc"),
)
_V2_COUNTS = [count for _, count, _ in V2_STAGES]
_MOBILENET_V2: Rename = (
    (r"^stem/conv$", "features.0.0"),
    (r"^stem/norm$", "features.0.1"),
    (r"^stage1_block0/depthwise/conv$", "features.1.conv.0.0"),
    (r"^stage1_block0/depthwise/norm$", "features.1.conv.0.1"),
    (r"^stage1_block0/project/conv$", "features.1.conv.1"),
    (r"^stage1_block0/project/norm$", "features.1.conv.2"),
    (r"^stage(\d)_block(\d)", number_blocks(_V2_COUNTS, "features.{}.conv", 1)),
    (r"/expand/conv$", ".0.0"),
    (r"/expand/norm$", ".0.1"),
    (r"/depthwise/conv$", ".1.0"),
    (r"/depthwise/norm$", ".1.1"),
    (r"/project/conv$", ".2"),
    (r"/project/norm$", ".3"),
    (r"^last_conv/conv$", "features.18.0"),
    (r"^last_conv/norm$", "features.18.1"),
    (r"^head$", "classifier.1"),
)
# A block is one sequence, in which activations have numbers too.
_FLAT: Rename = (
    (r"/expand/conv$", ".0"),
    (r"/expand/norm$", ".1"),
    (r"/depthwise/conv$", ".3"),
    (r"/depthwise/norm$", ".4"),
    (r"/project/conv$", ".6"),
    (r"/project/norm$", ".7"),
)
_CIRKD_MOBILENET_V2: Rename = (
    (r"^stem/conv$", "features.0.0"),
    (r"^stem/norm$", "features.0.1"),
    (r"^stage1_block0/depthwise/conv$", "features.1.conv.0"),
    (r"^stage1_block0/depthwise/norm$", "features.1.conv.1"),
    (r"^stage1_block0/project/conv$", "features.1.conv.3"),
    (r"^stage1_block0/project/norm$", "features.1.conv.4"),
    (r"^stage(\d)_block(\d)", number_blocks(_V2_COUNTS, "features.{}.conv", 1)),
    *_FLAT,
)
_CIFAR_MOBILENET_V2: Rename = (
    (r"^stem/conv$", "conv1.0"),
    (r"^stem/norm$", "conv1.1"),
    (
        r"^stage(\d)_block(\d)",
        lambda m: f"blocks.{int(m[1]) - 1}.{m[2]}.conv",
    ),
    *_FLAT,
    (r"^last_conv/conv$", "conv2.0"),
    (r"^last_conv/norm$", "conv2.1"),
    (r"^head$", "classifier.0"),
)
# The first stage has no expansion, so the numbers of its layers are lower by one.
_FIRST: Rename = (
    (r"^stage1_block(\d+)/depthwise/conv$", r"features.1.\1.block.0.0"),
    (r"^stage1_block(\d+)/depthwise/norm$", r"features.1.\1.block.0.1"),
    (r"^stage1_block(\d+)/squeeze/reduce$", r"features.1.\1.block.1.fc1"),
    (r"^stage1_block(\d+)/squeeze/expand$", r"features.1.\1.block.1.fc2"),
    (r"^stage1_block(\d+)/project/conv$", r"features.1.\1.block.2.0"),
    (r"^stage1_block(\d+)/project/norm$", r"features.1.\1.block.2.1"),
)
_EFFICIENTNET: Rename = (
    (r"^stem/conv$", "features.0.0"),
    (r"^stem/norm$", "features.0.1"),
    *_FIRST,
    (r"^stage(\d)_block(\d+)", r"features.\1.\2.block"),
    (r"/expand/conv$", ".0.0"),
    (r"/expand/norm$", ".0.1"),
    (r"/depthwise/conv$", ".1.0"),
    (r"/depthwise/norm$", ".1.1"),
    (r"/squeeze/reduce$", ".2.fc1"),
    (r"/squeeze/expand$", ".2.fc2"),
    (r"/project/conv$", ".3.0"),
    (r"/project/norm$", ".3.1"),
    (r"^last_conv$", "features.8.0"),
    (r"^last_norm$", "features.8.1"),
    (r"^head$", "classifier.1"),
)
_TIMM_MOBILE: Rename = (
    (r"^stem/conv$", "conv_stem"),
    (r"^stem/norm$", "bn1"),
    (r"^stage1_block(\d+)/depthwise/norm$", r"blocks.0.\1.bn1"),
    (r"^stage1_block(\d+)/project/conv$", r"blocks.0.\1.conv_pw"),
    (r"^stage1_block(\d+)/project/norm$", r"blocks.0.\1.bn2"),
    (r"^stage(\d)_block(\d+)/", lambda m: f"blocks.{int(m[1]) - 1}.{m[2]}."),
    (r"\.expand/conv$", ".conv_pw"),
    (r"\.expand/norm$", ".bn1"),
    (r"\.depthwise/conv$", ".conv_dw"),
    (r"\.depthwise/norm$", ".bn2"),
    (r"\.squeeze/", ".se.conv_"),
    (r"\.project/conv$", ".conv_pwl"),
    (r"\.project/norm$", ".bn3"),
    (r"^last_conv(/conv)?$", "conv_head"),
    (r"^(last_norm|last_conv/norm)$", "bn2"),
    (r"^head$", "classifier"),
)


def _flat_names(module: EfficientNet) -> Rename:
    """Returns the table of the package ``efficientnet_pytorch``."""
    return (
        (r"^stem/conv$", "_conv_stem"),
        (r"^stem/norm$", "_bn0"),
        (r"^stage(\d)_block(\d+)/", number_blocks(module.counts(), "_blocks.{}.")),
        (r"\.expand/conv$", "._expand_conv"),
        (r"\.expand/norm$", "._bn0"),
        (r"\.depthwise/conv$", "._depthwise_conv"),
        (r"\.depthwise/norm$", "._bn1"),
        (r"\.squeeze/", "._se_"),
        (r"\.project/conv$", "._project_conv"),
        (r"\.project/norm$", "._bn2"),
        (r"^last_conv$", "_conv_head"),
        (r"^last_norm$", "_bn1"),
        (r"^head$", "_fc"),
    )


_TABLES: dict[type, dict[str, Rename]] = {
    CifarResNet: {"cifar": _RESNET},
    WideResNet: {"cifar": _WRN},
    Vgg: {"cifar": _VGG},
    ShuffleNetV1: {"cifar": _SHUFFLENET},
    ShuffleNetV2: {"cifar": _SHUFFLENET},
    MobileNetV1: {"official": _MOBILENET_V1},
    Swin: {
        "timm": TIMM_SWIN,
        "microsoft": MICROSOFT_SWIN,
        "torchvision": TORCHVISION_SWIN,
    },
}
