"""Crops for training and evaluation, from uint8 images or files."""

import numpy as np

from ..images.decoding import decode_image
from ..images.encoded import ImageLike, UnreadableImage
from ..images.headers import MAX_PIXELS, read_size
from ..images.resize import (
    INTERPOLATIONS,
    Box,
    crop_exact,
    crop_fast,
    mirror,
    to_array,
    to_pillow,
)


def crop_flip(
    image: np.ndarray, drawn: np.ndarray, *, padding: int, flip: bool
) -> np.ndarray:
    """Shifts images at random, by zero padding and cropping, and mirrors some of them.

    This is the augmentation of CIFAR (recipe A1: ``padding=4``, flip).

    Args:
      image: uint8 ``[n, h, w, c]``.
      drawn: ``[n, 3]``, numbers in [0, 1) for the shift down, the shift right and the
        mirror.
      padding: largest shift in pixels, at least 0.
      flip: if true, mirror each image with probability one half.

    Returns:
      A new array of the same shape and dtype.

    >>> x = np.ones((2, 4, 4, 1), np.uint8)
    >>> crop_flip(x, np.random.rand(2, 3), padding=1, flip=True).shape
    (2, 4, 4, 1)
    """
    n, h, w, _ = image.shape
    pad = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(image, pad)
    top, left = (drawn[:, :2] * (2 * padding + 1)).astype(int).T
    rows = (top[:, None] + np.arange(h))[:, :, None]
    columns = (left[:, None] + np.arange(w))[:, None, :]
    if flip:
        mirrored = drawn[:, 2] < 0.5
        columns = np.where(mirrored[:, None, None], columns[:, :, ::-1], columns)
    shifted: np.ndarray = padded[np.arange(n)[:, None, None], rows, columns]
    return shifted


def random_resized_crop(
    image: ImageLike,
    rng: np.random.Generator,
    *,
    size: int,
    flip: bool,
    interpolation: str = "bilinear",
    exact: bool = False,
) -> np.ndarray:
    """Crops a random area (8 to 100 %) of random aspect (3/4 to 4/3), and resizes it.

    This is the augmentation of ImageNet (recipe B1). If ten draws do not fit, the
    centre is cropped.

    Args:
      image: uint8 ``[h, w, c]`` or a file.
      rng: source of the draws.
      size: side of the result, in pixels.
      flip: if true, mirror with probability one half.
      interpolation: a key of :data:`INTERPOLATIONS`.
      exact: if true, resize by :func:`crop_exact`, otherwise by :func:`crop_fast`.

    Returns:
      uint8 ``[size, size, c]``.

    Raises:
      UnreadableImage: the file does not decode.

    >>> x, rng = np.zeros((60, 40, 3), np.uint8), np.random.default_rng(0)
    >>> random_resized_crop(x, rng, size=28, flip=True).shape
    (28, 28, 3)
    """
    box = _random_box(*read_size(image), rng)
    crop = (crop_exact if exact else crop_fast)(image, box, size, interpolation)
    return mirror(crop) if flip and rng.random() < 0.5 else crop


def center_crop(
    image: ImageLike, *, size: int, resize: int, interpolation: str = "bilinear"
) -> np.ndarray:
    """Resizes the shorter side of an image, and crops the central square.

    The result equals torchvision's ``Resize`` and ``CenterCrop`` of a Pillow image bit
    by bit. The longer side is truncated to whole pixels, the offset of the crop is
    rounded to even, and an image smaller than ``size`` gets a black border.

    Args:
      image: uint8 ``[h, w, c]`` or a file.
      size: side of the result, in pixels.
      resize: length of the shorter side after resizing, in pixels.
      interpolation: a key of :data:`INTERPOLATIONS`.

    Returns:
      uint8 ``[size, size, c]``.

    Raises:
      UnreadableImage: the file does not decode, or is so narrow that it would be
        resized to more than ``MAX_PIXELS`` pixels.

    >>> center_crop(np.zeros((60, 40, 3), np.uint8), size=28, resize=32).shape
    (28, 28, 3)
    """
    source = to_pillow(decode_image(image))
    width, height = source.size
    scaled = resize * max(width, height) // min(width, height)
    if resize * scaled > MAX_PIXELS:
        raise UnreadableImage(
            f"{getattr(image, 'name', 'image')}: found {width}x{height} pixels, "
            f"too narrow to be resized to {resize}"
        )
    shape = (resize, scaled) if width <= height else (scaled, resize)
    pixels = to_array(source.resize(shape, INTERPOLATIONS[interpolation][1]))
    rows, columns = (_centre(length, size) for length in pixels.shape[:2])
    crop = np.zeros((size, size, pixels.shape[-1]), np.uint8)
    crop[rows[1], columns[1]] = pixels[rows[0], columns[0]]
    return crop


def _centre(length: int, size: int) -> tuple[slice, slice]:
    """Returns which pixels of a side are cut out, and which of ``size`` they become."""
    if length < size:
        start = (size - length) // 2
        return slice(None), slice(start, start + length)
    start = round((length - size) / 2)
    return slice(start, start + size), slice(None)


def _random_box(h: int, w: int, rng: np.random.Generator) -> Box:
    """Draws the box of a random crop."""
    for _ in range(10):
        area = h * w * rng.uniform(0.08, 1.0)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        bw, bh = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < bw <= w and 0 < bh <= h:
            left, top = rng.integers(0, w - bw + 1), rng.integers(0, h - bh + 1)
            return float(left), float(top), float(left + bw), float(top + bh)
    bw, bh = min(w, h * 4 / 3), min(h, w * 4 / 3)
    left, top = (w - bw) / 2, (h - bh) / 2
    return left, top, left + bw, top + bh
