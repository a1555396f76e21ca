"""EXIF orientation of images whose boxes or masks were drawn on the turned image."""

from typing import Any

import cv2
import numpy as np

from .decoding import decode_image, read_levels
from .encoded import Encoded, ImageLike, UnreadableImage
from .headers import read_orientation, read_size


class WrongBoxes(ValueError):
    """Boxes that do not fit their image; the message names its file."""


def turn_upright(
    pixels: np.ndarray, orientation: int, size: Any, turn: bool
) -> np.ndarray:
    """Turns an image as a viewer shows it, if it then has the size of its annotations.

    Otherwise the image is returned as it is.

    Args:
      pixels: uint8 ``[h, w, c]``, as stored.
      orientation: EXIF orientation, 1 to 8.
      size: height and width of the annotated image.
      turn: if true, also turn an image that has this size before and after.
    """
    if orientation > 1 and (turn or pixels.shape[:2] != tuple(size)):
        shown = turn_image(pixels, orientation)
        if shown.shape[:2] == tuple(size):
            return shown
    return pixels


def turn_as_annotated(image: Encoded, size: Any, turn: bool) -> ImageLike:
    """Returns an image file in the orientation of its boxes: itself, or turned pixels.

    Args:
      image: the file; a file that does not decode is returned unchanged.
      size: height and width of the annotated image.
      turn: as for :func:`turn_upright`.

    Raises:
      WrongBoxes: the image has another size, turned or not.
    """
    size = tuple(int(side) for side in size)
    try:
        stored, orientation = read_size(image), read_orientation(image)
        shown = stored[::-1] if orientation > 4 else stored
        if size not in (stored, shown):
            raise WrongBoxes(
                f"{image.name}: found an image of {stored[1]}x{stored[0]} pixels, "
                f"expected {size[1]}x{size[0]} (width x height), stated with its boxes"
            )
        if orientation > 1 and shown == size and (turn or stored != size):
            return _turned(image, orientation)
    except UnreadableImage:
        pass
    return image


def _turned(image: Encoded, orientation: int) -> ImageLike:
    """Returns turned pixels; an image of 16 bits stays a file for its white level."""
    levels = read_levels(image)
    if levels is None:
        return turn_image(decode_image(image), orientation)
    levels = levels if levels.ndim == 3 else levels[..., None]
    shown = turn_image(levels, orientation).astype(np.uint16)[..., ::-1]
    return image._replace(data=cv2.imencode(".png", shown)[1].tobytes())


def turn_image(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an image as a viewer shows it.

    Args:
      image: ``[h, w, c]``, as stored.
      orientation: EXIF orientation, 1 to 8.

    >>> turn_image(np.arange(6).reshape(2, 3, 1), 6)[..., 0]
    array([[3, 0],
           [4, 1],
           [5, 2]])
    """
    if orientation > 4:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
