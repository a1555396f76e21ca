"""Crops and resizing of images, given as arrays or files."""

import cv2
import numpy as np
from PIL import Image

from .decoding import decode_file, decode_image
from .encoded import Encoded, ImageLike
from .headers import read_size

INTERPOLATIONS = {
    "bilinear": (cv2.INTER_LINEAR, Image.Resampling.BILINEAR),
    "bicubic": (cv2.INTER_CUBIC, Image.Resampling.BICUBIC),
}
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def crop_fast(image: ImageLike, box: Box, size: int, interpolation: str) -> np.ndarray:
    """Crops and resizes an image as fast as possible, for augmentation.

    A JPEG is decoded at 1/2, 3/8, 1/4 or 1/8 of its size if the crop stays at least as
    large as the result. The crop is interpolated between neighbouring pixels, without a
    filter. A crop of at least twice the size of the result is averaged over areas
    instead; a JPEG is already decoded smaller than that. The box is rounded to whole
    pixels.

    Args:
      image: array or file.
      box: left, top, right and bottom, in pixels, inside the image.
      size: side of the result, in pixels.
      interpolation: a key of :data:`INTERPOLATIONS`.

    Returns:
      uint8 ``[size, size, c]``.

    Raises:
      UnreadableImage: the file does not decode.

    >>> x = np.full((40, 60, 3), 7, np.uint8)
    >>> crop_fast(x, (10, 10, 40, 30), 16, "bilinear").mean()
    np.float64(7.0)
    """
    height, width = read_size(image)
    left, top, right, bottom = box
    needed = max(size / (right - left), size / (bottom - top))
    if isinstance(image, Encoded):
        # Decoding at scales between one half and one is slower than at full size.
        small = (int(np.ceil(height * needed)), int(np.ceil(width * needed)))
        pixels = decode_file(image, small if needed <= 0.5 else None)
    else:
        pixels = image
    fy, fx = pixels.shape[0] / height, pixels.shape[1] / width
    rows = slice(round(top * fy), max(round(bottom * fy), round(top * fy) + 1))
    columns = slice(round(left * fx), max(round(right * fx), round(left * fx) + 1))
    crop = pixels[rows, columns]
    shrinks = min(crop.shape[:2]) >= 2 * size
    kind = cv2.INTER_AREA if shrinks else INTERPOLATIONS[interpolation][0]
    return cv2.resize(crop, (size, size), interpolation=kind).reshape(size, size, -1)


def crop_exact(image: ImageLike, box: Box, size: int, interpolation: str) -> np.ndarray:
    """Crops and resizes an image with a filter, as wide as the reduction (Pillow).

    torchvision and timm resize this way. The box need not be at whole pixels.

    Args:
      image: array or file.
      box: left, top, right and bottom, in pixels, inside the image.
      size: side of the result, in pixels.
      interpolation: a key of :data:`INTERPOLATIONS`.

    Returns:
      uint8 ``[size, size, c]``.

    >>> x = np.full((40, 60, 3), 7, np.uint8)
    >>> crop_exact(x, (10.5, 10.0, 40.0, 30.0), 16, "bilinear").shape
    (16, 16, 3)
    """
    source = to_pillow(decode_image(image))
    resample = INTERPOLATIONS[interpolation][1]
    return to_array(source.resize((size, size), resample, box=box))


def mirror(image: np.ndarray) -> np.ndarray:
    """Swaps left and right; much faster than copying a reversed axis.

    Args:
      image: uint8 ``[h, w, c]``.

    >>> mirror(np.array([[[1], [2]]], np.uint8))[0, :, 0].tolist()
    [2, 1]
    """
    return cv2.flip(image, 1).reshape(image.shape)


def to_pillow(image: np.ndarray) -> Image.Image:
    """Converts an array, uint8 ``[h, w, c]`` with one or three channels, for Pillow.

    Args:
      image: the array.
    """
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(image: Image.Image) -> np.ndarray:
    """Converts an image of Pillow to an array ``[h, w, c]``.

    Args:
      image: the image.
    """
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
