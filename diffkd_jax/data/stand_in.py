"""Blank data of the shapes that a config states, for a dry run without the data."""

import logging

import numpy as np

from ..config.data import DataConfig
from .array_splits import make_array_split
from .dataset import Data
from .sources.registry import DATASETS
from .sources.scene_boxes import load_scene_boxes
from .sources.scenes import load_scenes
from .split import Split
from .transforms import recognise_target
from .transforms.draws import Draws
from .transforms.normalise import make_batch_normaliser

LOG = logging.getLogger(__name__)
# Data sets whose targets are masks, or boxes; all others have a class for each image.
MASKS = ("cityscapes", "masks", "voc", "scenes", "tfds/cityscapes")
BOXES = ("coco", "voc_boxes", "scene_boxes", "tfds/coco", "tfds/voc")
# Height, width and channels of images that a recipe takes as they are.
NATIVE = {
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "cifar100": (32, 32, 3),
    "tfds/cifar10": (32, 32, 3),
    "tfds/cifar100": (32, 32, 3),
    "tfds/mnist": (28, 28, 1),
    "tfds/fashion_mnist": (28, 28, 1),
}


def stand_in(options: DataConfig) -> Data:
    """Returns the data that a config describes, without opening ``data.path``.

    Args:
      options: the section ``data`` of a config.

    Returns:
      Data whose splits hold as many blank images as one batch. Shapes of images and
      targets are those that the data would have. ``assumed`` is True.

    Raises:
      ValueError: the config does not state the size of images, or the number of
        classes. A detector without that number is one of 1 class.

    >>> from diffkd_jax.config.data import DataConfig
    >>> stand_in(DataConfig(name="cifar10", num_classes=10)).train_shape
    (32, 32, 3)
    """
    classes = options.num_classes
    if not classes and _kind(options.name) in BOXES:
        LOG.warning(
            "data.num_classes: found 0, so sizes are those of a model of 1 class; set "
            "the number of classes for other sizes"
        )
        classes = 1
    if not classes:
        raise ValueError(
            "data.num_classes: found 0, expected the number of classes, since the "
            "data are not read to count them"
        )
    blank = _blank(options)
    row, draws = np.zeros(1, int), Draws(0, 0, np.zeros(1, int))
    transform = recognise_target(blank.fetch(row)["target"])
    transform.check(options)
    trained = transform.train(blank.fetch(row), draws, options)
    evaluated = transform.evaluate(blank.fetch(row), options)
    channels = options.channels or trained["image"].shape[-1]
    train_shape = (*trained["image"].shape[1:3], channels)
    split = Split(
        max(options.batch_size, options.eval_batch_size),
        lambda rows: blank.fetch(np.zeros_like(rows)),
    )
    return Data(
        train=split,
        evaluation=split,
        meta={
            "num_classes": classes,
            "class_names": [],
            "channels": channels,
            "image_size": list(train_shape[:2]),
        },
        train_shape=train_shape,
        eval_shape=(*evaluated["image"].shape[1:3], channels),
        splits={options.train_split: split, options.eval_split: split},
        target=trained["target"],
        normalise=make_batch_normaliser(options, trained["image"].shape[-1]),
        sized="size" in trained,
        assumed=True,
        transform=transform,
    )


def target_ranks(name: str) -> dict[str, int] | None:
    """Returns the number of dimensions of each array of one example's target.

    Args:
      name: value of ``data.name``.

    Returns:
      Dimensions by name of the array, without that of the batch. None for a data set
      that is not built in.

    >>> target_ranks("coco"), target_ranks("my_package:load")
    ({'boxes': 2, 'classes': 1, 'valid': 1}, None)
    """
    key = _kind(name)
    if key in BOXES:
        return {"boxes": 2, "classes": 1, "valid": 1}
    if key in MASKS:
        return {"label": 2}
    return {"label": 0} if name in DATASETS else None


def _kind(name: str) -> str:
    """Returns the name of a data set without the configuration of a TFDS data set."""
    return "/".join(name.split("/")[:2])


def _blank(options: DataConfig) -> Split:
    """Returns a split of one example with a target of the right kind."""
    name = _kind(options.name)
    if name in MASKS:
        return load_scenes(count=4, size=32).splits["train"]
    if name in BOXES:
        return load_scene_boxes(count=4, size=32).splits["train"]
    side = max(options.resize, options.image_size, options.eval_size)
    shape = (side, side, 3) if side else NATIVE.get(name)
    if shape is None:
        raise ValueError(
            "data.image_size: found 0, expected a size in pixels, since the data are "
            "not read to measure it"
        )
    image = np.zeros((1, *shape), np.uint8)
    return make_array_split(image, np.zeros(1, int), options.num_classes, "stand-in")
