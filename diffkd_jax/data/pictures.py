"""Pictures of any size, in memory or as files, cropped and resized."""

import io
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

# Batches are prepared in parallel already.
cv2.setNumThreads(1)

INTERPOLATIONS = {
    "bilinear": (cv2.INTER_LINEAR, Image.Resampling.BILINEAR),
    "bicubic": (cv2.INTER_CUBIC, Image.Resampling.BICUBIC),
}


class UnreadablePicture(ValueError):
    """A file that does not decode; the message begins with its name."""


class Encoded(NamedTuple):
    """The content of a picture file (JPEG, PNG, ...), and what to call it."""

    data: bytes
    name: str


Picture = np.ndarray | Encoded  # uint8 [h, w, c], or a file that decodes to [h, w, 3]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels


def decode(picture: Picture) -> np.ndarray:
    """All pixels, uint8 ``[h, w, c]``; a file is decoded to RGB.

    Raises:
      UnreadablePicture: a file that does not decode.
    """
    return _read(picture) if isinstance(picture, Encoded) else picture


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width in pixels; of a file the header alone is read.

    Raises:
      UnreadablePicture: a file that is no picture.
    """
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    if _is_jpeg(picture):
        try:
            return simplejpeg.decode_jpeg_header(picture.data)[:2]
        except ValueError:
            pass  # Pillow accepts more, or says what is wrong
    with _open(picture) as image:
        return image.height, image.width


def crop_fast(picture: Picture, box: Box, size: int, interpolation: str) -> np.ndarray:
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
      UnreadablePicture: a file that does not decode.

    >>> x = np.full((40, 60, 3), 7, np.uint8)
    >>> crop_fast(x, (10, 10, 40, 30), 16, "bilinear").mean()
    np.float64(7.0)
    """
    height, width = size_of(picture)
    left, top, right, bottom = box
    needed = max(size / (right - left), size / (bottom - top))
    if isinstance(picture, Encoded):
        # The scales between one half and one are slower than the whole picture.
        small = (int(np.ceil(height * needed)), int(np.ceil(width * needed)))
        pixels = _read(picture, small if needed <= 0.5 else None)
    else:
        pixels = picture
    fy, fx = pixels.shape[0] / height, pixels.shape[1] / width
    rows = slice(round(top * fy), max(round(bottom * fy), round(top * fy) + 1))
    columns = slice(round(left * fx), max(round(right * fx), round(left * fx) + 1))
    crop = pixels[rows, columns]
    shrinks = min(crop.shape[:2]) >= 2 * size
    kind = cv2.INTER_AREA if shrinks else INTERPOLATIONS[interpolation][0]
    return cv2.resize(crop, (size, size), interpolation=kind).reshape(size, size, -1)


def crop_exact(picture: Picture, box: Box, size: int, interpolation: str) -> np.ndarray:
    """A crop, resized with a filter as wide as the reduction: for evaluation.

    What Pillow does, and with it torchvision and timm. Takes and returns what
    :func:`crop_fast` does; the box need not be at whole pixels.
    """
    image = to_picture(decode(picture))
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


def _is_jpeg(picture: Encoded) -> bool:
    return picture.data[:2] == b"\xff\xd8"


def _read(picture: Encoded, least: tuple[int, int] | None = None) -> np.ndarray:
    """RGB pixels, of a JPEG reduced to no less than ``least``, height and width."""
    if _is_jpeg(picture):
        reduced = {}
        if least is not None:
            height, width = least
            reduced = {"min_height": height, "min_width": width, "min_factor": 2}
        try:
            return simplejpeg.decode_jpeg(picture.data, "RGB", **reduced)
        except ValueError:
            pass  # CMYK, and small flaws that Pillow passes over
    with _open(picture) as image:
        try:
            return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise _broken(picture, error) from None


def _open(picture: Encoded) -> Image.Image:
    try:
        return Image.open(io.BytesIO(picture.data))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise _broken(picture, error) from None


def _broken(picture: Encoded, error: Exception) -> UnreadablePicture:
    return UnreadablePicture(f"{picture.name}: not a picture that decodes: {error}")
