"""Scenes with boxes, with the same images as the scenes with masks."""

import functools
from typing import Any

import numpy as np

from ..class_names import FASHION_CLASSES
from ..images.objects import Objects, pad_objects
from ..split import Dataset, Split
from .scene_painting import Recipe, Scene
from .scenes import PALETTE, make_scenes, plan_scenes


def load_scene_boxes(
    path: str = "",
    *,
    size: int = 128,
    count: int = 8000,
    objects: int = 0,
    scale: Any = (),
) -> Dataset:
    """Creates scenes of fashion items on busy backgrounds, with boxes of 10 classes.

    The scene of an index is that of :func:`diffkd_jax.data.sources.scenes.load_scenes`.
    A box encloses the visible pixels of an object. An object of which too little is
    visible is ignored. Areas are numbers of visible pixels.

    Args:
      path: unused.
      size: side of a scene, 32 to 512 pixels.
      count: number of training scenes, at least 4; there are a quarter as many test
        scenes.
      objects: largest number of objects in a scene, up to 64; 0 takes it from
        :data:`diffkd_jax.data.sources.scenes.TABLE`, for the nearest size.
      scale: smallest and largest scale of the items; by default also from the table.

    Raises:
      ValueError: an option is out of range.

    >>> split = load_scene_boxes(count=8).splits["test"]
    >>> split.fetch(np.array([0, 1]))["target"]["boxes"].shape
    (2, 8, 4)
    """
    del path
    recipe, counts = plan_scenes(size, count, objects, scale)
    splits = {
        name: Split(split_size, functools.partial(_fetch, index, recipe))
        for index, (name, split_size) in enumerate(counts.items())
    }
    palette = [list(colour) for colour in PALETTE[1:]]
    return Dataset(splits, FASHION_CLASSES, {"palette": palette})


def _fetch(number: int, recipe: Recipe, rows: np.ndarray) -> dict[str, Any]:
    """Creates the batch of some rows of a split."""
    scenes = make_scenes(number, recipe, rows)
    parts = [_visible_objects(scene, i) for i, scene in enumerate(scenes)]
    objects = Objects(*map(np.concatenate, zip(*parts, strict=True)))
    return {
        "image": np.stack([scene.image for scene in scenes]),
        "target": pad_objects(objects, np.arange(len(scenes)), recipe.objects),
    }


def _visible_objects(scene: Scene, row: int) -> Objects:
    """Returns the objects of a scene with a visible pixel, in order of painting.

    >>> owner = np.array([[0, 1, 1], [2, 1, 0]], np.int32)
    >>> scene = Scene(None, owner, np.array([0, 4, 9]), np.array([2, 3, 1]),
    ...     np.array([False, False, True]))
    >>> objects = _visible_objects(scene, 0)
    >>> objects.boxes.tolist(), objects.classes.tolist(), objects.ignored.tolist()
    ([[1.0, 0.0, 3.0, 2.0], [0.0, 1.0, 1.0, 2.0]], [3, 8], [False, True])
    """
    numbers = 1 + np.flatnonzero(scene.visible[1:])
    boxes = np.zeros((len(numbers), 4), np.float32)
    for box, number in zip(boxes, numbers, strict=True):
        mask = scene.owner == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Objects(
        np.full(len(numbers), row, np.int32),
        boxes,
        (scene.classes[numbers] - 1).astype(np.int32),
        scene.hidden[numbers],
        scene.visible[numbers].astype(np.float32),
    )
