"""RandAugment (Cubuk et al. 2020), with the operations and ranges of timm.

``m9-mstd0.5``: two of fifteen operations for each image. Each is applied with
probability one half, at a magnitude drawn around 9 of 10 with standard deviation 0.5.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..images.resize import to_array, to_pillow

MOST = 10.0  # the largest magnitude
Fill = tuple[int, ...]
Resampling = Image.Resampling
# (image, level in [0, 1], sign, interpolation, fill) -> image
Operation = Callable[[Image.Image, float, int, Resampling, Fill], Image.Image]


def _affine(
    image: Image.Image, matrix: tuple[float, ...], resample: Resampling, fill: Fill
) -> Image.Image:
    """Applies an affine map to an image."""
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill
    )


def _solarize_add(image: Image.Image, level: float, *_: Any) -> Image.Image:
    """Adds a constant to the dark half of the levels."""
    add = min(128, int(level * 110))
    table = [min(255, v + add) if v < 128 else v for v in range(256)]
    return image.point(table * len(image.getbands()))


def _enhance(kind: Callable[[Image.Image], Any]) -> Operation:
    """Returns the operation of one of Pillow's enhancers."""
    return lambda image, level, *_: kind(image).enhance(1.8 * level + 0.1)


def _shear_x(
    image: Image.Image, level: float, sign: int, resample: Resampling, fill: Fill
) -> Image.Image:
    """Shears an image horizontally."""
    return _affine(image, (1, 0.3 * level * sign, 0, 0, 1, 0), resample, fill)


def _shear_y(
    image: Image.Image, level: float, sign: int, resample: Resampling, fill: Fill
) -> Image.Image:
    """Shears an image vertically."""
    return _affine(image, (1, 0, 0, 0.3 * level * sign, 1, 0), resample, fill)


def _translate_x(
    image: Image.Image, level: float, sign: int, resample: Resampling, fill: Fill
) -> Image.Image:
    """Moves an image horizontally."""
    shift = 0.45 * level * sign * image.size[0]
    return _affine(image, (1, 0, shift, 0, 1, 0), resample, fill)


def _translate_y(
    image: Image.Image, level: float, sign: int, resample: Resampling, fill: Fill
) -> Image.Image:
    """Moves an image vertically."""
    shift = 0.45 * level * sign * image.size[1]
    return _affine(image, (1, 0, 0, 0, 1, shift), resample, fill)


# Posterize and solarize change less at higher magnitudes, as in the reference.
OPERATIONS: dict[str, Operation] = {
    "auto_contrast": lambda image, *_: ImageOps.autocontrast(image),
    "equalize": lambda image, *_: ImageOps.equalize(image),
    "invert": lambda image, *_: ImageOps.invert(image),
    "rotate": lambda image, level, sign, resample, fill: image.rotate(
        30.0 * level * sign, resample, fillcolor=fill
    ),
    "posterize": lambda image, level, *_: ImageOps.posterize(image, int(4 * level)),
    "solarize": lambda image, level, *_: ImageOps.solarize(
        image, min(256, int(256 * level))
    ),
    "solarize_add": _solarize_add,
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}


def rand_augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    magnitude: float = 9.0,
    std: float = 0.5,
    layers: int = 2,
    mean: Sequence[float] = (0.5,),
) -> np.ndarray:
    """Applies random operations to one image.

    Args:
      image: uint8 ``[h, w, c]``, one or three channels.
      rng: source of the draws.
      magnitude: mean of the magnitude, in [0, 10].
      std: standard deviation of the magnitude.
      layers: number of operations, drawn with replacement.
      mean: colour of areas that come in from outside, on the scale 0 to 1; one number
        or one for each channel.

    Returns:
      uint8 of the same shape.

    >>> x = np.zeros((8, 8, 3), np.uint8)
    >>> rand_augment(x, np.random.default_rng(0)).shape
    (8, 8, 3)
    """
    colours = np.broadcast_to(mean, image.shape[-1])
    fill = tuple(min(255, round(255 * float(v))) for v in colours)
    pillow_image = to_pillow(image)
    names = list(OPERATIONS)
    for index in rng.integers(0, len(names), layers):
        if rng.random() > 0.5:
            continue
        level = float(np.clip(rng.normal(magnitude, std), 0.0, MOST)) / MOST
        sign = 1 if rng.random() < 0.5 else -1
        resample = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[
            int(rng.integers(2))
        ]
        pillow_image = OPERATIONS[names[index]](
            pillow_image, level, sign, resample, fill
        )
    return to_array(pillow_image)


def color_jitter(
    image: np.ndarray, rng: np.random.Generator, strength: float
) -> np.ndarray:
    """Scales brightness, contrast and saturation, in random order.

    Each is scaled by its own factor, uniform in ``1 - strength`` to ``1 + strength``.

    Args:
      image: uint8 ``[h, w, c]``, one or three channels.
      rng: source of the draws.
      strength: in [0, 1].

    Returns:
      uint8 of the same shape.

    >>> x = np.full((2, 2, 3), 100, np.uint8)
    >>> color_jitter(x, np.random.default_rng(0), 0.0).tolist() == x.tolist()
    True
    """
    pillow_image = to_pillow(image)
    kinds = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color]
    for index in rng.permutation(len(kinds)):
        factor = float(rng.uniform(1 - strength, 1 + strength))
        pillow_image = kinds[index](pillow_image).enhance(factor)
    return to_array(pillow_image)
