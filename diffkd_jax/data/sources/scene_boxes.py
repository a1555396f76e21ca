"""Scenes with boxes, made of the same images as the scenes with masks."""

import functools
from typing import Any

import numpy as np

from ..class_names import FASHION_CLASSES
from ..images.objects import Objects, padded
from ..split import Dataset, Split
from .scenes import PALETTE, Recipe, Scene, plan, scenes


def load_scene_boxes(
    path: str = "",
    *,
    size: int = 128,
    count: int = 8000,
    objects: int = 0,
    scale: Any = (),
) -> Dataset:
    """Fashion items on busy backgrounds, 10 classes of objects with boxes.

    The scene of an index is that of :func:`diffkd_jax.data.sources.scenes.load_scenes`.
    A box is tight around what is visible of an object; one of which too little is
    visible is ignored. Areas are visible pixels.

    Args:
      path: none.
      size: side of a scene, 32 to 512 pixels.
      count: scenes to train on; a quarter as many are there to test on.
      objects: the most in a scene, 0 for those of the nearest size in the table there.
      scale: least and largest scale of the items, likewise.

    Raises:
      ValueError: options out of range.

    >>> scenes = load_scene_boxes(count=8).splits["test"]
    >>> scenes.fetch(np.array([0, 1]))["target"]["boxes"].shape
    (2, 8, 4)
    """
    del path
    recipe, sizes = plan(size, count, objects, scale)
    splits = {
        name: Split(number, functools.partial(_fetch, split, recipe))
        for split, (name, number) in enumerate(sizes.items())
    }
    palette = [list(colour) for colour in PALETTE[1:]]
    return Dataset(splits, FASHION_CLASSES, {"palette": palette})


def _fetch(number: int, recipe: Recipe, rows: np.ndarray) -> dict[str, Any]:
    found = scenes(number, recipe, rows)
    each = [_visible_objects(scene) for scene in found]
    counts = [0, *(len(one.boxes) for one in each)]
    flat = {k: np.concatenate([getattr(x, k) for x in each]) for k in Objects._fields}
    objects = Objects(**flat | {"offsets": np.cumsum(counts)})
    return {
        "image": np.stack([scene.image for scene in found]),
        "target": padded(objects, np.arange(len(found)), recipe.objects),
    }


def _visible_objects(scene: Scene) -> Objects:
    """The objects of one scene of which anything is visible, in order of painting.

    >>> owner = np.array([[0, 1, 1], [2, 1, 0]], np.int32)
    >>> scene = Scene(None, owner, np.array([0, 4, 9]), np.array([2, 3, 1]),
    ...     np.array([False, False, True]))
    >>> found = _visible_objects(scene)
    >>> found.boxes.tolist(), found.classes.tolist(), found.ignored.tolist()
    ([[1.0, 0.0, 3.0, 2.0], [0.0, 1.0, 1.0, 2.0]], [3, 8], [False, True])
    """
    numbers = 1 + np.flatnonzero(scene.visible[1:])
    boxes = np.zeros((len(numbers), 4), np.float32)
    for box, number in zip(boxes, numbers, strict=True):
        own = scene.owner == number
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Objects(
        boxes,
        (scene.classes[numbers] - 1).astype(np.int32),
        scene.hidden[numbers],
        scene.visible[numbers].astype(np.float32),
        np.array([0, len(numbers)]),
    )
