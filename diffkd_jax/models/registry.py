"""Built-in networks by name, and models by import path."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from ..named import call, find, keywords, takes_any
from .backbones.cifar_resnet import WIDE, CifarResNet
from .backbones.efficientnet import EfficientNet
from .backbones.mobilenet import MobileNetV1, MobileNetV2
from .backbones.resnet import ResNet
from .backbones.shufflenet import ShuffleNetV1, ShuffleNetV2
from .backbones.swin import Swin
from .backbones.vgg import Vgg
from .backbones.wrn import WideResNet
from .dense.faster_rcnn import FasterRcnn
from .dense.fcos import Fcos
from .dense.retinanet import RetinaNet
from .dense.segmenter import Segmenter
from .model import Model, from_linen
from .options import check_options, option_names

_deep = partial(ResNet, bottleneck=True)

IMAGENET_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet10": partial(ResNet, (1, 1, 1, 1)),
    "resnet18": partial(ResNet, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, (3, 4, 6, 3)),
    "resnet50": partial(_deep, (3, 4, 6, 3)),
    "resnet101": partial(_deep, (3, 4, 23, 3)),
    "resnet152": partial(_deep, (3, 8, 36, 3)),
    "resnext101_32x8d": partial(_deep, (3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": partial(_deep, (3, 4, 23, 3), groups=64, group_width=4),
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "efficientnet_b0": EfficientNet,
    "tf_efficientnet_b0": partial(EfficientNet, tensorflow=True),
    "efficientnet_lite0": partial(EfficientNet, lite=True, tensorflow=True),
    "efficientnet_lite1": partial(EfficientNet, depth=1.1, lite=True, tensorflow=True),
    "efficientnet_lite2": partial(
        EfficientNet, width=1.1, depth=1.2, lite=True, tensorflow=True
    ),
    "swin_t": partial(Swin, (2, 2, 6, 2), 96),
    "swin_l": partial(Swin, (2, 2, 18, 2), 192),
}
CIFAR_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(CifarResNet, 8),
    "resnet14": partial(CifarResNet, 14),
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet44": partial(CifarResNet, 44),
    "resnet56": partial(CifarResNet, 56),
    "resnet110": partial(CifarResNet, 110),
    "resnet8x4": partial(CifarResNet, 8, channels=WIDE),
    "resnet32x4": partial(CifarResNet, 32, channels=WIDE),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
    "vgg8": partial(Vgg, 1),
    "vgg13": partial(Vgg, 2),
    "cifar_resnet50": partial(_deep, (3, 4, 6, 3), small_images=True),
    "cifar_mobilenet_v2": partial(MobileNetV2, width=0.5, small_images=True),
    "shufflenet_v1": ShuffleNetV1,
    "shufflenet_v2": ShuffleNetV2,
}
_image, _cifar = IMAGENET_MODELS, CIFAR_MODELS
# These networks suit images of about 64x64. The last map has a quarter of the height
# and width of the image.
_small: Any = partial(Segmenter, aspp_channels=16, rates=(2, 4, 6), aux=False)

SEGMENTATION_MODELS: dict[str, Callable[..., nn.Module]] = {
    "deeplabv3_resnet18": partial(Segmenter, _image["resnet18"], "aspp"),
    "deeplabv3_resnet50": partial(
        Segmenter, _image["resnet50"], "aspp", aspp_channels=256
    ),
    "deeplabv3_resnet101": partial(
        Segmenter, _image["resnet101"], "aspp", aspp_channels=256
    ),
    "pspnet_resnet18": partial(Segmenter, _image["resnet18"], "pyramid"),
    "pspnet_resnet101": partial(
        Segmenter, _image["resnet101"], "pyramid", aspp_channels=256
    ),
    "deeplabv3_mobilenet_v2": partial(
        Segmenter, _image["mobilenet_v2"], "aspp", aux=False
    ),
    "deeplabv3_resnet8": partial(_small, _cifar["resnet8"], "aspp"),
    "deeplabv3_resnet14": partial(_small, _cifar["resnet14"], "aspp"),
    "deeplabv3_resnet20": partial(_small, _cifar["resnet20"], "aspp"),
}
DETECTION_MODELS: dict[str, Callable[..., nn.Module]] = {
    "retinanet_resnet18": partial(RetinaNet, _image["resnet18"]),
    "retinanet_resnet50": partial(RetinaNet, _image["resnet50"]),
    "retinanet_resnet101": partial(RetinaNet, _image["resnet101"]),
    "fcos_resnet18": partial(Fcos, _image["resnet18"]),
    "fcos_resnet50": partial(Fcos, _image["resnet50"]),
    "fcos_resnet101": partial(Fcos, _image["resnet101"]),
    "faster_rcnn_resnet18": partial(FasterRcnn, _image["resnet18"]),
    "faster_rcnn_resnet50": partial(FasterRcnn, _image["resnet50"]),
    "faster_rcnn_resnet101": partial(FasterRcnn, _image["resnet101"]),
    # This network is trained from scratch, on images of about 128x128 with objects of
    # about 15 to 55 pixels.
    "retinanet_resnet10": partial(
        RetinaNet,
        _image["resnet10"],
        width=32,
        norm_train=True,
        fpn_channels=64,
        levels=("p3", "p4"),
        tower_depth=2,
        anchor_sizes=(16, 32),
    ),
}
MODELS = IMAGENET_MODELS | CIFAR_MODELS | SEGMENTATION_MODELS | DETECTION_MODELS
# Import paths of models that this process has made. Configs and calls name them, files
# never do.
USED_PATHS: set[str] = set()


def build_network(name: str, /, *, num_classes: int, **options: Any) -> nn.Module:
    """Builds a built-in network by name.

    A name that a file holds must be checked before, see
    :func:`diffkd_jax.weights.metadata.check_model_name`.

    Args:
      name: a key of :data:`MODELS`.
      num_classes: number of logits, 0 for no head.
      **options: further fields of the module, such as ``channels`` or ``dtype``.

    Returns:
      The module, without variables.

    Raises:
      ValueError: an unknown name, an unknown field, or a value out of its range.

    >>> build_network("wrn_16_1", num_classes=10).depth
    16
    """
    if name not in MODELS:
        raise ValueError(f"model: found {name!r}, expected one of {list(MODELS)}")
    try:
        check_options(MODELS[name], options)
        # JSON has lists in place of tuples.
        lists = {k: tuple(v) for k, v in options.items() if isinstance(v, list)}
        return MODELS[name](num_classes=num_classes, **options | lists)
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"model {name!r}: {error}") from None


def options_taken(name: str) -> set[str] | None:
    """Returns the names of the options of a model, or None if it takes any.

    Args:
      name: a key of :data:`MODELS`, or an import path ``package.module:name``.

    Raises:
      ValueError: there is no such model.

    >>> "channels" in options_taken("resnet8"), "channels" in options_taken("swin_t")
    (True, False)
    """
    if name in MODELS:
        return set(option_names(MODELS[name]))
    function = find(name, MODELS, "model")
    return None if takes_any(function) else set(keywords(function))


def make(name: str, options: Mapping[str, Any], meta: Mapping[str, Any]) -> Model:
    """Makes a model, built-in or by import path.

    A name that a file holds must be checked before, because an import path is imported
    and called.

    Args:
      name: a key of :data:`MODELS`, or ``package.module:name`` of a function ``(meta,
        **options)``. It returns a Flax Linen module or a :class:`Model`, such as the
        result of :func:`from_nnx` or :func:`from_equinox`. A function whose first
        argument is called ``num_classes`` is given that number in place of ``meta``.
      options: options by name.
      meta: description of the data: ``num_classes``, ``channels``, ``image_size``
        (height, width), and ``class_names`` if known.

    Raises:
      ValueError: there is no such model, it does not take the options, or the function
        returns something else.

    >>> make("resnet8", {}, {"num_classes": 10}).module.depth
    8
    """
    if name in MODELS:
        return from_linen(
            build_network(name, num_classes=meta["num_classes"], **options)
        )
    function = find(name, MODELS, "model")
    USED_PATHS.add(name)
    first = next(iter(inspect.signature(function).parameters), "")
    argument = meta["num_classes"] if first == "num_classes" else dict(meta)
    try:
        model = call(function, options, "options", argument)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(f"model {name!r}: {error or type(error).__name__}") from error
    if isinstance(model, Model):
        return model
    if isinstance(model, nn.Module):
        return from_linen(model)
    raise ValueError(
        f"model {name!r}: found {type(model).__name__}, expected a Flax Linen module "
        "or a diffkd_jax.models.Model, as from_nnx and from_equinox make it"
    )
