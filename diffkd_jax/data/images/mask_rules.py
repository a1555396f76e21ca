"""Rules by which the values of mask files become classes."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np

from ..findings import some_of

VOID = 255  # class of pixels that do not count
MAX_MASK_CLASSES = 255
PART = 2**20  # pixels looked up at once, since indices take 64 bits each
# (value or colour in the file, class)
Pairs = tuple[tuple[int, int], ...]


class WrongMask(ValueError):
    """A mask whose values or format cannot be right; the message names its file."""


class MaskRule(NamedTuple):
    """A rule by which the values of mask files become classes.

    Values that ``mapping`` does not name stay as they are.

    Attributes:
      classes: number of classes, 1 to 255.
      mapping: ``(value in the file, class or 255)`` for each value that changes.
      colours: ``(0xRRGGBB, class or 255)`` for files in colours or with a palette.
        Without them colours are refused, and palettes give their indices.
      turn: if true, turn an image by its EXIF orientation if its mask fits both ways.
    """

    classes: int
    mapping: Pairs = ()
    colours: Pairs = ()
    turn: bool = True


def to_classes(values: np.ndarray, rule: MaskRule, name: str) -> np.ndarray:
    """Converts integers or booleans of any shape to classes, uint8, with 255 for void.

    Args:
      values: the values of a mask.
      rule: how values become classes.
      name: name of the file, for messages.

    Raises:
      WrongMask: a value is not a class; the message begins with ``name``.

    >>> to_classes(np.array([-1, 0, 2]), MaskRule(3, mapping=((-1, 255),)), "here")
    array([255,   0,   2], dtype=uint8)
    >>> to_classes(np.array([0, 38]), MaskRule(3), "here")
    Traceback (most recent call last):
    diffkd_jax.data.images.mask_rules.WrongMask: here: found the value 38, expected \
0 to 2 for 3 classes, or 255 for void
    """
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if not np.issubdtype(values.dtype, np.integer):
        raise WrongMask(f"{name}: found values {values.dtype}, expected integers")
    if not values.size:
        return values.astype(np.uint8)
    if values.dtype == np.uint8:
        classes, wrong = _tables(rule, 0, 255)
        if not cv2.LUT(values, wrong).any():
            return cv2.LUT(values, classes).reshape(values.shape)
        bad = np.unique(values[wrong[values] > 0])
    else:
        low, high = int(values.min()), int(values.max())
        if high - low > 2**16:
            bad = np.array([low, high])
        else:
            classes, wrong = _tables(rule, low, high)
            flat, parts, unknown = values.reshape(-1), [], set()
            for start in range(0, flat.size, PART):
                indices = flat[start : start + PART].astype(np.int64) - low
                parts.append(classes[indices])
                unknown |= set(np.unique(indices[wrong[indices] > 0]).tolist())
            if not unknown:
                return np.concatenate(parts).reshape(values.shape)
            bad = np.array(sorted(unknown)) + low
    shown = some_of((str(v) for v in bad), 8)
    also = " and those of the mapping" if rule.mapping else ""
    raise WrongMask(
        f"{name}: found the value{'s' * (len(bad) > 1)} {shown}, expected 0 to "
        f"{rule.classes - 1} for {rule.classes} classes, or 255 for void{also}"
    )


@functools.lru_cache(64)
def _tables(rule: MaskRule, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class of each value in a range, and 1 for values without a class."""
    values = np.arange(low, high + 1)
    # A value that stays must not be a class that another value is mapped to.
    taken = [c for v, c in rule.mapping if c not in (VOID, v)]
    wrong = (values < 0) | (values >= rule.classes) | np.isin(values, taken)
    wrong &= values != VOID
    classes = np.where(wrong, 0, np.minimum(values, VOID))
    for value, to in rule.mapping:
        if low <= value <= high:
            classes[value - low], wrong[value - low] = to, False
    return classes.astype(np.uint8), wrong.astype(np.uint8)


def parse_rule(
    classes: int, mapping: Any = "", colours: Any = "", turn: Any = True
) -> MaskRule:
    """Creates a rule from the options of a data set.

    Args:
      classes: number of classes, 1 to 255.
      mapping: ``"<value>:<class> ..."``, or a dict; class 255 is void.
      colours: ``"<red>,<green>,<blue>:<class> ..."``, or a dict.
      turn: see :class:`MaskRule`.

    Raises:
      ValueError: another form, or a class out of range.

    >>> parse_rule(2, "0:0 255:1").mapping
    ((0, 0), (255, 1))
    """
    if not 1 <= classes <= MAX_MASK_CLASSES:
        raise ValueError(
            f"data.options.classes: found {classes}, expected 1 to {MAX_MASK_CLASSES}"
        )
    if not isinstance(turn, bool):
        raise ValueError(f"data.options.turn: found {turn!r}, expected True or False")
    values = _pairs("mapping", mapping, r"-?\d{1,6}", "0:255 1:0", classes)
    by_colour = _pairs(
        "colours", colours, r"\d{1,3}(?:\s*,\s*\d{1,3}){2}", "128,0,0:1", classes
    )
    packed = []
    for key, to in by_colour:
        r, g, b = (int(part) for part in key.split(","))
        if max(r, g, b) > 255:
            raise ValueError(
                f"data.options.colours: found {key!r}, expected levels 0 to 255"
            )
        packed.append((r << 16 | g << 8 | b, to))
    return MaskRule(
        classes, tuple((int(v), to) for v, to in values), tuple(packed), turn
    )


def _pairs(
    option: str, value: Any, key: str, example: str, classes: int
) -> list[tuple[str, int]]:
    """Returns the pairs in ``<key>:<class> ...``; each key may occur once."""
    if isinstance(value, Mapping):
        words = [f"{k}:{v}" for k, v in value.items()]
    else:
        words = value.split() if isinstance(value, str) else [value]
    pairs = []
    for word in words:
        match = re.fullmatch(rf"\s*({key})\s*:\s*(\d{{1,3}})\s*", str(word))
        if not match or not (int(match[2]) < classes or int(match[2]) == VOID):
            raise ValueError(
                f"data.options.{option}: found {str(word)[:40]!r}, expected "
                f"{example!r} and the like, classes 0 to {classes - 1} or 255 for void"
            )
        pairs.append((match[1], int(match[2])))
    if len({k for k, _ in pairs}) < len(pairs):
        raise ValueError(
            f"data.options.{option}: found {str(value)[:60]!r}, expected each value "
            "once"
        )
    return pairs
