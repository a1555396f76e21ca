"""Networks: each maps images ``[b, h, w, c]`` to a dict of named arrays.

A backbone returns at least ``features`` (the last map, ``[b, h', w', c']``), ``pooled``
(``[b, c']``) and ``logits`` (``[b, num_classes]``), and the maps ``stem``, ``stage1``,
``stage2``, ... Networks for segmentation return no ``pooled``, and their ``logits`` are
maps. Networks for detection return dicts by level of a pyramid, see :class:`RetinaNet`,
:class:`Fcos` and :class:`FasterRcnn`.
"""

from .dense.faster_rcnn import FasterRcnn
from .dense.fcos import Fcos
from .dense.retinanet import RetinaNet
from .dense.segmenter import Segmenter
from .equinox_modules import from_equinox
from .model import Model, from_linen
from .nnx_modules import from_nnx
from .registry import (
    CIFAR_MODELS,
    DETECTION_MODELS,
    IMAGENET_MODELS,
    MODELS,
    SEGMENTATION_MODELS,
    build_network,
    make,
)

__all__ = [
    "CIFAR_MODELS",
    "DETECTION_MODELS",
    "IMAGENET_MODELS",
    "MODELS",
    "SEGMENTATION_MODELS",
    "FasterRcnn",
    "Fcos",
    "Model",
    "RetinaNet",
    "Segmenter",
    "build_network",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "make",
]
