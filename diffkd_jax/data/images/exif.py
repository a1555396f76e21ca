"""Pictures that EXIF would turn: they lie as their annotations have it."""

from typing import Any

import cv2
import numpy as np

from .decoding import (
    Encoded,
    ImageLike,
    UnreadableImage,
    decode_image,
    read_orientation,
    read_size,
    stored_levels,
)


class WrongBoxes(ValueError):
    """Boxes that cannot be of their picture; the message names its file."""


def upright(pixels: np.ndarray, orientation: int, size: Any, turn: bool) -> np.ndarray:
    """A picture, turned as a viewer shows it where it then has the size it should.

    Args:
      pixels: uint8 ``[h, w, c]``, as stored.
      orientation: of EXIF, 1 to 8.
      size: height and width of what is annotated.
      turn: whether it is turned where it has that size both ways.
    """
    if orientation > 1 and (turn or pixels.shape[:2] != tuple(size)):
        shown = turned(pixels, orientation)
        if shown.shape[:2] == tuple(size):
            return shown
    return pixels


def as_annotated(picture: Encoded, size: Any, turn: bool) -> ImageLike:
    """A picture file as boxes are for it: itself, or its pixels turned.

    Args:
      picture: the file; one that does not decode stays.
      size: height and width that the boxes are for.
      turn: as of :func:`upright`.

    Raises:
      WrongBoxes: a picture that is of another size both ways.
    """
    size = tuple(int(side) for side in size)
    try:
        stored, orientation = read_size(picture), read_orientation(picture)
        shown = stored[::-1] if orientation > 4 else stored
        if size not in (stored, shown):
            raise WrongBoxes(
                f"{picture.name}: found a picture of {stored[1]}x{stored[0]} pixels, "
                f"expected {size[1]}x{size[0]} as its boxes have it (width x height)"
            )
        if orientation > 1 and shown == size and (turn or stored != size):
            return _turned(picture, orientation)
    except UnreadableImage:
        pass
    return picture


def _turned(picture: Encoded, orientation: int) -> ImageLike:
    """Returns turned pixels; of 16 bits a file of them, since its white may be set."""
    levels = stored_levels(picture)
    if levels is None:
        return turned(decode_image(picture), orientation)
    levels = levels if levels.ndim == 3 else levels[..., None]
    shown = turned(levels, orientation).astype(np.uint16)[..., ::-1]
    return picture._replace(data=cv2.imencode(".png", shown)[1].tobytes())


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A picture as a viewer shows it.

    Args:
      picture: ``[h, w, c]``, as stored.
      orientation: of EXIF, 1 to 8.

    >>> turned(np.arange(6).reshape(2, 3, 1), 6)[..., 0]
    array([[3, 0],
           [4, 1],
           [5, 2]])
    """
    if orientation > 4:
        picture = picture.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)
