"""Scenes with masks, composed of the embedded pictures: nothing to download."""

import functools
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..class_names import FASHION_CLASSES
from ..images.masks import VOID
from ..images.resize import mirror
from ..split import Dataset, Split
from .arrays import load_embedded

CLASSES = ("background", *FASHION_CLASSES)
PALETTE = (
    *((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200)),
    *((245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230)),
    *((210, 245, 60), (250, 190, 212)),
)
# Side of a scene to how many objects it has at most, and the range of their scale.
TABLE = {64: (4, (0.7, 1.5)), 96: (6, (0.7, 1.9)), 128: (8, (0.7, 2.4))}
SEEN = 20  # levels of an item above which it covers what is behind it
LEAST_SHARE, LEAST_PIXELS = 0.35, 20  # of an object that is visible, to be one
MAX_SCENES = 10_000_000


class Recipe(NamedTuple):
    """How scenes are composed.

    Attributes:
      size: side, pixels.
      objects: the most that are painted, from 1 on.
      scale: least and largest factor of an item's 28 pixels.
    """

    size: int
    objects: int
    scale: tuple[float, float]


class Scene(NamedTuple):
    """A scene and whose its pixels are.

    Attributes:
      image: uint8 ``[size, size, 3]``.
      owner: int32 ``[size, size]``: number of the object that is seen, 0 for none.
      classes: int ``[k]``, of the objects by number; 0 for the background, which is
        the first, else 1 + class.
      visible: int ``[k]``, pixels that are seen.
      hidden: bool ``[k]``: too little is seen.
    """

    image: np.ndarray
    owner: np.ndarray
    classes: np.ndarray
    visible: np.ndarray
    hidden: np.ndarray


def load_scenes(
    path: str = "",
    *,
    size: int = 64,
    count: int = 8000,
    objects: int = 0,
    scale: Any = (),
) -> Dataset:
    """Fashion items on busy backgrounds: 11 classes of pixels, the background first.

    A scene is a function of its split and its index alone. Those to train on hold
    items of the embedded training set, those to test on of its test set.

    Args:
      path: none.
      size: side of a scene, 32 to 512 pixels.
      count: scenes to train on; a quarter as many are there to test on.
      objects: the most in a scene, 0 for those of the nearest size in :data:`TABLE`.
      scale: least and largest scale of the items, likewise.

    Raises:
      ValueError: options out of range.

    >>> scenes = load_scenes(count=8).splits["test"]
    >>> scenes.size, scenes.fetch(np.array([0, 1]))["target"]["label"].shape
    (2, (2, 64, 64))
    """
    del path
    recipe, sizes = plan(size, count, objects, scale)
    splits = {
        name: Split(number, functools.partial(_fetch, split, recipe))
        for split, (name, number) in enumerate(sizes.items())
    }
    meta = {"ignore": VOID, "palette": [list(colour) for colour in PALETTE]}
    return Dataset(splits, CLASSES, meta)


def plan(size: int, count: int, objects: int, scale: Any) -> tuple[Recipe, dict]:
    """How scenes are composed, and how many there are of each split.

    Raises:
      ValueError: options of :func:`load_scenes` out of range.
    """
    for name, value, least, most in (
        ("size", size, 32, 512),
        ("count", count, 4, MAX_SCENES),
        ("objects", objects, 0, 64),
    ):
        if not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"data.options.{name}: found {value!r}, expected {least} to {most}"
            )
    usual = TABLE[min(TABLE, key=lambda side: abs(side - size))]
    scale = scale or usual[1]
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
    recipe = Recipe(size, objects or usual[0], tuple(scale))
    return recipe, {"train": count, "test": count // 4}


def _fetch(number: int, recipe: Recipe, rows: np.ndarray) -> dict[str, Any]:
    found = scenes(number, recipe, rows)
    masks = [_classes_seen(x.classes, x.hidden)[x.owner] for x in found]
    return {
        "image": np.stack([x.image for x in found]),
        "target": {"label": np.stack(masks)},
    }


def scenes(number: int, recipe: Recipe, rows: np.ndarray) -> list[Scene]:
    """Those of some rows of a split, 0 to train on, 1 to test on."""
    items, labels = _items(number)
    return [
        compose(items, labels, np.random.default_rng((number, row)), recipe)
        for row in np.asarray(rows).tolist()
    ]


@functools.cache
def _items(number: int) -> tuple[np.ndarray, np.ndarray]:
    split = load_embedded().splits[("train", "test")[number]]
    batch = split.fetch(np.arange(split.size))
    return batch["image"][..., 0], batch["target"]["label"]


def compose(
    items: np.ndarray, labels: np.ndarray, rng: np.random.Generator, recipe: Recipe
) -> Scene:
    """One scene.

    Args:
      items: uint8 ``[n, 28, 28]``, on black.
      labels: int ``[n]``, their classes from 0 on.
      rng: of this scene.
      recipe: see :class:`Recipe`.
    """
    size = recipe.size
    picture = _background(rng, size)
    owner = np.zeros((size, size), np.int32)
    classes, areas = [0], [0]
    for number in range(1, int(rng.integers(1, recipe.objects + 1)) + 1):
        which = int(rng.integers(len(items)))
        item = _resized_item(items[which], rng, recipe.scale)
        height, width = item.shape
        # Up to a fifth of it may lie outside.
        top, left = (
            int(np.floor(rng.uniform(-0.2 * side, size - 0.8 * side)))
            for side in (height, width)
        )
        tint, least = rng.uniform(0.35, 1.0, 3), rng.uniform(0.0, 60.0)
        inside = np.s_[max(-top, 0) : size - top, max(-left, 0) : size - left]
        seen = item[inside] > SEEN
        rows, columns = np.nonzero(seen)
        levels = item[inside][rows, columns, None].astype(np.float64)
        rows, columns = rows + max(top, 0), columns + max(left, 0)
        picture[rows, columns] = least + (255.0 - least) * tint * levels / 255.0
        owner[rows, columns] = number
        classes.append(1 + int(labels[which]))
        areas.append(int((item > SEEN).sum()))
    picture += 8.0 * rng.standard_normal(picture.shape)
    image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    visible = np.bincount(owner.ravel(), minlength=len(areas))
    hidden = _hidden(visible, np.array(areas))
    return Scene(image, owner, np.array(classes), visible, hidden)


def _hidden(visible: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Objects of which too little is visible; the background, the first, is none.

    >>> pixels = np.array([9, 35, 34, 20, 19])
    >>> _hidden(pixels, np.array([0, 100, 100, 20, 19]))
    array([False, False,  True, False,  True])
    """
    hidden = visible < np.maximum(LEAST_PIXELS, LEAST_SHARE * areas)
    hidden[0] = False
    return hidden


def _classes_seen(classes: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Classes of pixels by object; void where too little is visible."""
    return np.where(hidden, VOID, classes).astype(np.uint8)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth colours, waves, and up to four plain shapes: float64 ``[h, w, 3]``."""
    grid = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3)).astype(np.uint8)
    smooth = _resized(grid, size, size).astype(np.float64)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    periods, amplitude = rng.uniform(2, 12), rng.uniform(0, 40)
    place = np.arange(size) * (2 * np.pi * periods / size)
    across, down = place * np.cos(angle), place * np.sin(angle)
    picture = smooth + amplitude * np.sin(across + down[:, None] + phase)[..., None]
    grey = picture.mean(-1, keepdims=True)
    picture = grey + (picture - grey) * rng.uniform()
    at = np.arange(size)
    for _ in range(int(rng.integers(5))):
        disc, colour = rng.random() < 0.5, rng.uniform(0, 255, 3)
        (y, x), (h, w) = rng.uniform(0, size, 2), rng.uniform(size / 16, size / 4, 2)
        if disc:
            shape = (at[:, None] - y) ** 2 + (at - x) ** 2 < h * h
        else:
            shape = (abs(at[:, None] - y) < h) & (abs(at - x) < w)
        picture[shape] = colour
    return picture


def _resized_item(
    item: np.ndarray, rng: np.random.Generator, scale: tuple[float, float]
) -> np.ndarray:
    factor = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    aspect = rng.uniform(0.85, 1.15)
    height = max(1, round(item.shape[0] * factor))
    width = max(1, round(item.shape[1] * factor * aspect))
    item = _resized(item, height, width)
    return mirror(item) if rng.random() < 0.5 else item


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """By Pillow, which counts in integers: the same bytes on every machine."""
    resample = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), resample))
