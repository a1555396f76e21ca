"""Painting of scenes: fashion items on a busy background, from a random generator."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8
from PIL import Image

from ..images.resize import mirror

OPAQUE = 20  # level (0 to 255) of an item's pixels above which they are opaque
# Smallest visible share of an object, and smallest number of visible pixels; below
# either one the object is hidden.
MIN_SHARE, MIN_PIXELS = 0.35, 20


class Recipe(NamedTuple):
    """The numbers by which scenes are composed.

    Attributes:
      size: side of a scene, in pixels.
      objects: largest number of objects that are painted, at least 1.
      scale: smallest and largest factor by which an item of 28 pixels is resized.
    """

    size: int
    objects: int
    scale: tuple[float, float]


class Scene(NamedTuple):
    """A scene, and the object that each of its pixels shows.

    Attributes:
      image: uint8 ``[size, size, 3]``.
      owner: int32 ``[size, size]``, number of the visible object; 0 for the background.
      classes: int ``[k]``, class of each object by its number: 0 for the background,
        which comes first, and 1 + class for items.
      visible: int ``[k]``, number of visible pixels.
      hidden: bool ``[k]``, whether too little is visible.
    """

    image: UInt8[np.ndarray, "size size 3"]
    owner: Int32[np.ndarray, "size size"]
    classes: Int[np.ndarray, " k"]
    visible: Int[np.ndarray, " k"]
    hidden: Bool[np.ndarray, " k"]


def compose(
    items: UInt8[np.ndarray, "n 28 28"],
    labels: Int[np.ndarray, " n"],
    rng: np.random.Generator,
    recipe: Recipe,
) -> Scene:
    """Composes one scene.

    Args:
      items: uint8 ``[n, 28, 28]``, items on black.
      labels: int ``[n]``, their classes from 0.
      rng: random generator of this scene.
      recipe: the numbers by which scenes are composed.

    >>> items, rng = np.full((1, 28, 28), 200, np.uint8), np.random.default_rng(0)
    >>> compose(items, np.array([3]), rng, Recipe(32, 1, (0.7, 1.0))).classes
    array([0, 4])
    """
    size = recipe.size
    canvas = _background(rng, size)
    owner = np.zeros((size, size), np.int32)
    classes, areas = [0], [0]
    for number in range(1, int(rng.integers(1, recipe.objects + 1)) + 1):
        index = int(rng.integers(len(items)))
        item = _resize_item(items[index], rng, recipe.scale)
        height, width = item.shape
        # Up to a fifth of an item's height or width may lie outside the scene.
        top, left = (
            int(np.floor(rng.uniform(-0.2 * side, size - 0.8 * side)))
            for side in (height, width)
        )
        tint, darkest = rng.uniform(0.35, 1.0, 3), rng.uniform(0.0, 60.0)
        inside = np.s_[max(-top, 0) : size - top, max(-left, 0) : size - left]
        opaque = item[inside] > OPAQUE
        rows, columns = np.nonzero(opaque)
        levels = item[inside][rows, columns, None].astype(np.float64)
        rows, columns = rows + max(top, 0), columns + max(left, 0)
        canvas[rows, columns] = darkest + (255.0 - darkest) * tint * levels / 255.0
        owner[rows, columns] = number
        classes.append(1 + int(labels[index]))
        areas.append(int((item > OPAQUE).sum()))
    canvas += 8.0 * rng.standard_normal(canvas.shape)
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    visible = np.bincount(owner.ravel(), minlength=len(areas))
    hidden = _hidden(visible, np.array(areas))
    return Scene(image, owner, np.array(classes), visible, hidden)


def _hidden(visible: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Returns which objects show too few pixels; the background, the first, never does.

    >>> pixels = np.array([9, 35, 34, 20, 19])
    >>> _hidden(pixels, np.array([0, 100, 100, 20, 19]))
    array([False, False,  True, False,  True])
    """
    hidden = visible < np.maximum(MIN_PIXELS, MIN_SHARE * areas)
    hidden[0] = False
    return hidden


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draws smooth colours, waves and up to four shapes, float64 ``[h, w, 3]``."""
    grid = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3)).astype(np.uint8)
    smooth = _resize(grid, size, size).astype(np.float64)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    periods, amplitude = rng.uniform(2, 12), rng.uniform(0, 40)
    phases = np.arange(size) * (2 * np.pi * periods / size)
    across, down = phases * np.cos(angle), phases * np.sin(angle)
    canvas: np.ndarray = (
        smooth + amplitude * np.sin(across + down[:, None] + phase)[..., None]
    )
    grey = canvas.mean(-1, keepdims=True)
    canvas = grey + (canvas - grey) * rng.uniform()
    positions = np.arange(size)
    for _ in range(int(rng.integers(5))):
        disc, colour = rng.random() < 0.5, rng.uniform(0, 255, 3)
        (y, x), (h, w) = rng.uniform(0, size, 2), rng.uniform(size / 16, size / 4, 2)
        if disc:
            shape = (positions[:, None] - y) ** 2 + (positions - x) ** 2 < h * h
        else:
            shape = (abs(positions[:, None] - y) < h) & (abs(positions - x) < w)
        canvas[shape] = colour
    return canvas


def _resize_item(
    item: np.ndarray, rng: np.random.Generator, scale: tuple[float, float]
) -> np.ndarray:
    """Resizes an item by random factors, and mirrors it with probability 0.5."""
    factor = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1])))
    aspect = rng.uniform(0.85, 1.15)
    height = max(1, round(item.shape[0] * factor))
    width = max(1, round(item.shape[1] * factor * aspect))
    item = _resize(item, height, width)
    return mirror(item) if rng.random() < 0.5 else item


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes by Pillow, which counts in integers: the same bytes on every machine."""
    resample = Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((width, height), resample))
