"""Backbones. Each maps images ``[b, h, w, c]`` to a dict of named arrays.

Every backbone returns at least ``features`` (the last map, ``[b, h', w', c']``),
``pooled`` (``[b, c']``) and ``logits`` (``[b, num_classes]``), and the map of every
stage under ``stem``, ``stage1``, ``stage2``, ...
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn

from .cifar_resnet import WIDE, CifarResNet
from .import_torch import RESNET, WRN, Rename
from .resnet import ResNet
from .wrn import WideResNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(CifarResNet, 8),
    "resnet14": partial(CifarResNet, 14),
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet44": partial(CifarResNet, 44),
    "resnet56": partial(CifarResNet, 56),
    "resnet110": partial(CifarResNet, 110),
    "resnet18": partial(ResNet, (2, 2, 2, 2)),
    "resnet34": partial(ResNet, (3, 4, 6, 3)),
    "resnet8x4": partial(CifarResNet, 8, channels=WIDE),
    "resnet32x4": partial(CifarResNet, 32, channels=WIDE),
    "wrn_16_1": partial(WideResNet, 16, 1),
    "wrn_16_2": partial(WideResNet, 16, 2),
    "wrn_40_1": partial(WideResNet, 40, 1),
    "wrn_40_2": partial(WideResNet, 40, 2),
}

RENAMES: dict[type, Rename] = {
    CifarResNet: RESNET,
    ResNet: RESNET,
    WideResNet: WRN,
}


def build(name: str, *, num_classes: int, **options: Any) -> nn.Module:
    """Makes the backbone ``name``.

    Args:
      name: a key of :data:`MODELS`, or ``package.module:name`` of a callable of your
        own, ``(num_classes, **options) -> flax.linen.Module``.
      num_classes: number of logits.
      options: further fields of the module, such as ``channels`` or ``dtype``.

    Raises:
      ValueError: no such model, or no such field.

    >>> build("wrn_16_1", num_classes=10).depth
    16
    """
    if name not in MODELS and ":" not in name:
        raise ValueError(
            f"model: found {name!r}, expected one of {list(MODELS)} or "
            "'package.module:name'"
        )
    if "channels" in options:
        options["channels"] = tuple(options["channels"])
    try:
        make = MODELS[name] if name in MODELS else _import(name)
        return make(num_classes=num_classes, **options)
    except (TypeError, ImportError, AttributeError) as error:
        raise ValueError(f"model {name!r}: {error}; found {options}") from None


def _import(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
