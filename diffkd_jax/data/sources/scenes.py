"""Scenes with masks, composed of the embedded images: nothing to download."""

import functools
from typing import Any

import numpy as np
from jaxtyping import Int

from ..class_names import FASHION_CLASSES
from ..images.mask_rules import VOID
from ..split import Dataset, Split
from .arrays import load_embedded
from .scene_painting import Recipe, Scene, compose

CLASSES = ("background", *FASHION_CLASSES)
PALETTE = (
    *((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200)),
    *((245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230)),
    *((210, 245, 60), (250, 190, 212)),
)
# Side of a scene, in pixels, to its largest number of objects and their range of scale.
TABLE = {64: (4, (0.7, 1.5)), 96: (6, (0.7, 1.9)), 128: (8, (0.7, 2.4))}
MAX_SCENES = 10_000_000


def load_scenes(
    path: str = "",
    *,
    size: int = 64,
    count: int = 8000,
    objects: int = 0,
    scale: Any = (),
) -> Dataset:
    """Creates scenes of fashion items on busy backgrounds, with masks of 11 classes.

    The background is the first class. A scene depends only on its split and its index.
    Training scenes show items of the embedded training set, and test scenes show items
    of its test set.

    Args:
      path: unused.
      size: side of a scene, 32 to 512 pixels.
      count: number of training scenes, at least 4; there are a quarter as many test
        scenes.
      objects: largest number of objects in a scene, up to 64; 0 takes it from
        :data:`TABLE`, for the nearest size.
      scale: smallest and largest scale of the items, from 0.2 to ``size / 16``; by
        default also from the table.

    Raises:
      ValueError: an option is out of range.

    >>> split = load_scenes(count=8).splits["test"]
    >>> split.size, split.fetch(np.array([0, 1]))["target"]["label"].shape
    (2, (2, 64, 64))
    """
    del path
    recipe, counts = plan_scenes(size, count, objects, scale)
    splits = {
        name: Split(split_size, functools.partial(_fetch, index, recipe))
        for index, (name, split_size) in enumerate(counts.items())
    }
    meta = {"ignore": VOID, "palette": [list(colour) for colour in PALETTE]}
    return Dataset(splits, CLASSES, meta)


def plan_scenes(
    size: int, count: int, objects: int, scale: Any
) -> tuple[Recipe, dict[str, int]]:
    """Returns the recipe of scenes, and the number of scenes in each split.

    Args:
      size: side of a scene, 32 to 512 pixels.
      count: number of training scenes.
      objects: largest number of objects in a scene, or 0.
      scale: smallest and largest scale of the items, or nothing.

    Raises:
      ValueError: an option of :func:`load_scenes` is out of range.

    >>> plan_scenes(64, 8, 0, ())
    (Recipe(size=64, objects=4, scale=(0.7, 1.5)), {'train': 8, 'test': 2})
    """
    for name, value, low, high in (
        ("size", size, 32, 512),
        ("count", count, 4, MAX_SCENES),
        ("objects", objects, 0, 64),
    ):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(
                f"data.options.{name}: found {value!r}, expected {low} to {high}"
            )
    defaults = TABLE[min(TABLE, key=lambda side: abs(side - size))]
    scale = scale or defaults[1]
    if (
        not isinstance(scale, tuple | list)
        or len(scale) != 2
        or not all(isinstance(v, int | float) for v in scale)
        or not 0.2 <= scale[0] <= scale[1] <= size / 16
    ):
        raise ValueError(
            f"data.options.scale: found {scale!r}, expected the least and the largest, "
            f"0.2 to {size / 16}"
        )
    recipe = Recipe(size, objects or defaults[0], tuple(scale))
    return recipe, {"train": count, "test": count // 4}


def _fetch(number: int, recipe: Recipe, rows: np.ndarray) -> dict[str, Any]:
    """Creates the batch of some rows of a split."""
    scenes = make_scenes(number, recipe, rows)
    masks = [_visible_classes(x.classes, x.hidden)[x.owner] for x in scenes]
    return {
        "image": np.stack([x.image for x in scenes]),
        "target": {"label": np.stack(masks)},
    }


def make_scenes(
    number: int, recipe: Recipe, rows: Int[np.ndarray, " n"]
) -> list[Scene]:
    """Creates the scenes of some rows of a split.

    Args:
      number: 0 for the training split, 1 for the test split.
      recipe: the numbers by which scenes are composed.
      rows: int ``[n]``, indices of the scenes.

    >>> make_scenes(1, Recipe(32, 2, (0.7, 1.0)), np.array([5]))[0].image.shape
    (32, 32, 3)
    """
    items, labels = _items(number)
    return [
        compose(items, labels, np.random.default_rng((number, row)), recipe)
        for row in np.asarray(rows).tolist()
    ]


@functools.cache
def _items(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embedded images and labels of a split."""
    split = load_embedded().splits[("train", "test")[number]]
    batch = split.fetch(np.arange(split.size))
    return batch["image"][..., 0], batch["target"]["label"]


def _visible_classes(classes: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Returns the class of each object's pixels; 255 if too little is visible."""
    return np.where(hidden, VOID, classes).astype(np.uint8)
