"""Decoding of image files to arrays."""

from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from .bit_depth import decode_deep_colours, is_deep, read_highest_level, to_8_bits
from .encoded import Encoded, ImageLike, decoding_errors
from .headers import check_pixel_count, check_scans, is_jpeg, open_image, read_jpeg_size


def decode_image(image: ImageLike) -> np.ndarray:
    """Returns all pixels of an image, uint8 ``[h, w, c]``.

    Grey levels of 16 bits are divided by 257, or scaled so that ``max_level`` is white.
    Floats from 0 to 1 are multiplied by 255, floats from 0 to 255 are kept; both are
    rounded. Transparency is dropped. The first frame of an animation is taken.

    Deviation: as in torchvision, the orientation in EXIF data is ignored, so pixels are
    as stored, and not as a viewer shows them.

    Args:
      image: an array, which is returned, or a file.

    Raises:
      UnreadableImage: the file does not decode, holds numbers of another range, or
        declares more than ``MAX_PIXELS`` pixels.

    >>> import cv2
    >>> png = cv2.imencode(".png", np.zeros((2, 3), np.uint8))[1].tobytes()
    >>> decode_image(Encoded(png, "1.png")).shape
    (2, 3, 3)
    """
    return decode_file(image) if isinstance(image, Encoded) else image


def decode_file(image: Encoded, min_size: tuple[int, int] | None = None) -> np.ndarray:
    """Decodes a file as :func:`decode_image`; a JPEG may be decoded at a reduced size.

    Args:
      image: the file.
      min_size: height and width that the result must at least have, or None for the
        full size.

    Returns:
      uint8 ``[h, w, c]``.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    with decoding_errors(image):
        if is_jpeg(image) and (size := read_jpeg_size(image)):
            check_scans(image.data, *check_pixel_count(*size))
            reduced = {}
            if min_size is not None:
                height, width = min_size
                reduced = {"min_height": height, "min_width": width, "min_factor": 2}
            colour = "RGB" if image.channels == 3 else "GRAY"
            try:
                pixels: np.ndarray = simplejpeg.decode_jpeg(
                    image.data, colour, **reduced
                )
                return pixels
            except ValueError:
                pass  # CMYK, and small flaws that Pillow ignores
        with open_image(image) as opened:
            return _pixels(opened, image)


def read_levels(image: Encoded) -> np.ndarray | None:
    """Returns the levels of an image of 16 bits, ``[h, w]`` or ``[h, w, 3]``.

    For an image of another kind it returns None without decoding.

    Args:
      image: the file.

    Raises:
      UnreadableImage: as :func:`decode_image`.
    """
    if is_jpeg(image):
        return None
    with decoding_errors(image), open_image(image) as opened:
        if opened.mode.startswith("I"):
            opened.load()
            return np.asarray(opened)
        return decode_deep_colours(image.data) if is_deep(opened) else None


def _pixels(opened: Any, image: Encoded) -> np.ndarray:
    """Returns the pixels of an opened image, uint8 ``[h, w, c]``."""
    channels, deep = image.channels, image.max_level and is_deep(opened)
    opened.load()
    if opened.mode.startswith("I"):
        grey = to_8_bits(
            np.asarray(opened), image.max_level or read_highest_level(opened)
        )
    elif deep:
        colours = decode_deep_colours(image.data)
        rows = to_8_bits(colours.reshape(len(colours), -1), image.max_level)
        pixels = rows.reshape(colours.shape)
        if channels == 3:
            return pixels
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
    elif opened.mode == "F":
        values = np.asarray(opened)
        if not (values.min() >= 0 and values.max() <= 255):  # NaN neither
            raise ValueError(
                f"found floats {values.min():g} to {values.max():g}, expected 0 to 1 "
                "or 0 to 255"
            )
        grey = np.rint(values * (255 if values.max() <= 1 else 1)).astype(np.uint8)
    else:
        opened.info.pop("transparency", None)  # not used, and warned of
        pixels = np.asarray(opened.convert("RGB" if channels == 3 else "L"))
        return pixels if channels == 3 else pixels[..., None]
    if opened.info["white_is_zero"]:
        grey = 255 - grey
    return np.repeat(grey[..., None], channels, -1)
