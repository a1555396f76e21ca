"""Networks. Each maps images ``[b, h, w, c]`` to a dict of named arrays.

Every backbone returns at least ``features`` (the last map, ``[b, h', w', c']``),
``pooled`` (``[b, c']``) and ``logits`` (``[b, num_classes]``), and the map of every
stage under ``stem``, ``stage1``, ``stage2``, ... Networks of segmentation return no
``pooled`` and their ``logits`` are maps. Those of detection return dicts by level of a
pyramid, see :class:`RetinaNet`, :class:`Fcos`, :class:`FasterRcnn`.
"""

from .dense.faster_rcnn import FasterRcnn
from .dense.fcos import Fcos
from .dense.retinanet import RetinaNet
from .dense.segmenter import Segmenter
from .model import Model, from_equinox, from_linen, from_nnx
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
