"""Mask files, decoded to one class for each pixel.

:func:`diffkd_jax.data.images.decoding.decode_image` does not serve masks: it turns the
indices of palettes into colours.
"""

from typing import NamedTuple

import numpy as np

from ..findings import some_of
from .encoded import decoding_errors
from .headers import open_image
from .mask_rules import PART, MaskRule, WrongMask, to_classes

GREY = ("1", "L", "I;16", "I")


class EncodedMask(NamedTuple):
    """The content of a mask file (PNG), its name, and its rule.

    Attributes:
      data: the bytes of the file.
      name: name for messages.
      rule: how values become classes.
      fault: why the file could not be read, or "".
    """

    data: bytes
    name: str
    rule: MaskRule
    fault: str = ""


def read_mask(mask: EncodedMask) -> np.ndarray:
    """Decodes a mask to classes, uint8 ``[h, w]``; 255 marks pixels to ignore.

    PNG files are accepted with grey levels (1 to 16 bits), with a palette (whose
    indices are the values), and in RGB if the rule has colours.

    Args:
      mask: the file.

    Raises:
      UnreadableImage: the file does not decode.
      WrongMask: another kind of file, or a value that is not a class.

    >>> import cv2
    >>> png = cv2.imencode(".png", np.array([[0, 255]], np.uint8))[1].tobytes()
    >>> read_mask(EncodedMask(png, "1.png", MaskRule(classes=2, mapping=((255, 1),))))
    array([[0, 1]], dtype=uint8)
    """
    with decoding_errors(mask), open_image(mask) as image:
        kind = f"{image.format} of {len(image.getbands())} channels"
        mode, raw = image.mode, str(image.tile[0][3]) if image.tile else ""
        if image.format == "PNG":
            image.load()
            values = np.asarray(image)
            palette = image.getpalette("RGB") if mode == "P" else None
        else:
            mode = ""
    if mode not in (*GREY, "P") and not (mode == "RGB" and mask.rule.colours):
        hint = " (of a mask in colours: data.options.colours)" if mode == "RGB" else ""
        raise WrongMask(
            f"{mask.name}: found {kind}, expected a PNG of grey levels or "
            f"with a palette{hint}"
        )
    if mode == "RGB":
        return _by_colour(values, mask)
    if palette is not None and mask.rule.colours:
        table = np.zeros((256, 3), np.uint8)
        table.flat[: len(palette)] = palette
        used = np.unique(values)
        class_of_value = np.zeros(256, np.uint8)
        class_of_value[used] = _by_colour(table[used][None], mask)[0]
        classes: np.ndarray = class_of_value[values]
        return classes
    if raw in ("L;2", "L;4"):  # Pillow scales these to 0 to 255
        values = values // (85 if raw == "L;2" else 17)
    return to_classes(values, mask.rule, mask.name)


def _by_colour(colours: np.ndarray, mask: EncodedMask) -> np.ndarray:
    """Returns the classes of colours ``[..., 3]``."""
    rule_colours, classes = np.array(sorted(mask.rule.colours)).T
    flat, parts, unknown = colours.reshape(-1, 3), [], set()
    for start in range(0, len(flat), PART):
        r, g, b = flat[start : start + PART].astype(np.int32).T
        codes = r << 16 | g << 8 | b
        index = np.minimum(np.searchsorted(rule_colours, codes), len(rule_colours) - 1)
        parts.append(classes.astype(np.uint8)[index])
        unknown |= set(np.unique(codes[rule_colours[index] != codes]).tolist())
    if unknown:
        shown = [f"{c >> 16},{c >> 8 & 255},{c & 255}" for c in sorted(unknown)]
        raise WrongMask(
            f"{mask.name}: found the colours {some_of(shown)}, expected those of the "
            "colour table"
        )
    return np.concatenate(parts).reshape(colours.shape[:-1])
