"""Pictures of any size, in memory or as files, cropped and resized."""

import cv2
import numpy as np
from PIL import Image

from .decoding import Encoded, ImageLike, decode_file, decode_image, read_size

INTERPOLATIONS = {
    "bilinear": (cv2.INTER_LINEAR, Image.Resampling.BILINEAR),
    "bicubic": (cv2.INTER_CUBIC, Image.Resampling.BICUBIC),
}
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def crop_fast(
    picture: ImageLike, box: Box, size: int, interpolation: str
) -> np.ndarray:
    """A crop, resized as fast as can be: for augmentation.

    A JPEG is decoded at one half, 3/8, one quarter or one eighth of its size where the
    crop stays at least as large as the result. Interpolation is between neighbouring
    pixels, without a filter; only from a factor of two on, which a JPEG does not leave,
    it is the mean over the area. The box is rounded to whole pixels.

    Args:
      picture: array or file.
      box: inside the picture.
      size: side of the result, pixels.
      interpolation: a key of :data:`INTERPOLATIONS`.

    Returns:
      uint8 ``[size, size, c]``.

    Raises:
      UnreadableImage: a file that does not decode.

    >>> x = np.full((40, 60, 3), 7, np.uint8)
    >>> crop_fast(x, (10, 10, 40, 30), 16, "bilinear").mean()
    np.float64(7.0)
    """
    height, width = read_size(picture)
    left, top, right, bottom = box
    needed = max(size / (right - left), size / (bottom - top))
    if isinstance(picture, Encoded):
        # The scales between one half and one are slower than the whole picture.
        small = (int(np.ceil(height * needed)), int(np.ceil(width * needed)))
        pixels = decode_file(picture, small if needed <= 0.5 else None)
    else:
        pixels = picture
    fy, fx = pixels.shape[0] / height, pixels.shape[1] / width
    rows = slice(round(top * fy), max(round(bottom * fy), round(top * fy) + 1))
    columns = slice(round(left * fx), max(round(right * fx), round(left * fx) + 1))
    crop = pixels[rows, columns]
    shrinks = min(crop.shape[:2]) >= 2 * size
    kind = cv2.INTER_AREA if shrinks else INTERPOLATIONS[interpolation][0]
    return cv2.resize(crop, (size, size), interpolation=kind).reshape(size, size, -1)


def crop_exact(
    picture: ImageLike, box: Box, size: int, interpolation: str
) -> np.ndarray:
    """A crop, resized with a filter as wide as the reduction.

    What Pillow does, and with it torchvision and timm. Takes and returns what
    :func:`crop_fast` does; the box need not be at whole pixels.
    """
    image = to_picture(decode_image(picture))
    resample = INTERPOLATIONS[interpolation][1]
    return to_array(image.resize((size, size), resample, box=box))


def mirror(image: np.ndarray) -> np.ndarray:
    """Left and right exchanged; much faster than a reversed axis, copied."""
    return cv2.flip(image, 1).reshape(image.shape)


def to_picture(image: np.ndarray) -> Image.Image:
    """uint8 ``[h, w, c]``, one or three channels, as Pillow has it."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def to_array(picture: Image.Image) -> np.ndarray:
    """The inverse of :func:`to_picture`."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array
