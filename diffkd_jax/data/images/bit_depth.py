"""Images of more than 8 bits for each level."""

import functools
import struct
from typing import Any

import cv2
import numpy as np

_TIFF = {b"II*\0": "<", b"MM\0*": ">"}
_BITS, _PHOTOMETRIC = 258, 262  # tags of TIFF


def declare_black_zero(data: bytes) -> tuple[bytes, bool]:
    """Returns a TIFF of more than 8 bits whose header declares that zero is black.

    Pillow shows some files whose zero is white as negatives, and refuses others.

    Args:
      data: content of a file.

    Returns:
      The content, and whether the header declared that zero is white. If so, levels
      must be inverted after decoding.
    """
    order = _TIFF.get(data[:4])
    if order is None:
        return data, False
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        entries = range(start + 2, start + 2 + 12 * count, 12)
        tags = {struct.unpack_from(f"{order}H", data, e)[0]: e + 8 for e in entries}
        bits, white_zero = (
            struct.unpack_from(f"{order}H", data, tags[tag])[0] if tag in tags else 1
            for tag in (_BITS, _PHOTOMETRIC)
        )
    except struct.error:  # a damaged file, which its reader reports
        return data, False
    if white_zero or bits <= 8:
        return data, False
    position = tags[_PHOTOMETRIC]
    return data[:position] + struct.pack(f"{order}H", 1) + data[position + 2 :], True


def is_deep(image: Any) -> bool:
    """Returns whether an image has colours of 16 bits; Pillow keeps the upper 8.

    Args:
      image: an image that Pillow has opened.
    """
    return bool(image.tile) and ";16" in str(image.tile[0][3])


def decode_deep_colours(data: bytes) -> np.ndarray:
    """Returns colours of 16 bits, uint16 ``[h, w, 3]``, without transparency.

    Args:
      data: content of an image file whose declared size has been checked.

    Raises:
      ValueError: the file has no such colours.
    """
    colours = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if colours is None or colours.dtype != np.uint16 or colours.ndim != 3:
        raise ValueError("found colours of 16 bits that do not decode")
    return colours[..., 2::-1]


def to_8_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Converts levels of up to 16 bits to 8 bits, uint8 of the same shape.

    Args:
      values: ``[h, w]``, integers.
      white: the level that becomes 255.

    Raises:
      ValueError: a level is below 0 or above ``white``.
    """
    if values.min() < 0 or values.max() > white:
        hint = " (data.max_level)" if white < 65535 else ""
        raise ValueError(
            f"found levels {values.min()} to {values.max()}, expected 0 to {white}"
            f"{hint}"
        )
    table = _levels(white)
    grey = np.empty(values.shape, np.uint8)
    for row, levels in zip(grey, values, strict=True):
        row[:] = table[levels]  # by row, since indices are copied as 64 bits
    return grey


@functools.lru_cache(8)
def _levels(white: int) -> np.ndarray:
    """Returns the table from levels of up to 16 bits to 8 bits.

    A table needs no copy of the image in a wider type.
    """
    levels: np.ndarray = np.rint(np.arange(white + 1) * (255 / white))
    return levels.astype(np.uint8)


def read_highest_level(image: Any) -> int:
    """Returns the highest level that a file of more than 8 bits can hold.

    A TIFF states its bits; other formats have 16.

    Args:
      image: an image that Pillow has opened.
    """
    bits = image.tag_v2.get(258, (16,))[0] if image.format == "TIFF" else 16
    return 2**bits - 1 if 8 < bits < 16 else 65535
