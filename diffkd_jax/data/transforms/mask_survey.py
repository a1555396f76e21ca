"""Inspection of some masks of a split before a run."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..findings import some_of
from ..images.decoding import decode_image
from ..images.encoded import UnreadableImage
from ..images.headers import read_orientation
from ..images.mask_rules import VOID, WrongMask
from ..images.masks import EncodedMask, read_mask
from ..split import Split, spread_rows
from .viewed import name_image

LOG = logging.getLogger(__name__)
MAX_EXAMINED = 16  # masks, spread over the split


def inspect_masks(
    split: Split,
    names: Sequence[str],
    where: str,
    canvas: Sequence[int] | None = None,
) -> None:
    """Reads up to 16 masks of a split, and logs what is unusual about them.

    The log names classes without a pixel, says if more than half of the pixels are
    void, and names images that are not turned as their EXIF orientation says.

    Args:
      split: a split with masks.
      names: names of the classes.
      where: name of the split, for messages.
      canvas: canvas of evaluation, () for none; None if the split is not evaluated.

    Raises:
      WrongMask: a mask cannot be right, or has more classes than ``names``.
      ValueError: no mask of the split has a pixel that counts, or images need another
        canvas.
    """
    rows = spread_rows(split, MAX_EXAMINED)
    counts, sizes, not_turned = _read_masks(split.fetch(rows))
    masks = f"{len(rows)} of {split.size} masks of {where}"
    if not_turned:
        LOG.warning(
            "%d of these images have the size of their mask as stored, and are not "
            "turned as their EXIF orientation says: %s",
            len(not_turned),
            some_of(not_turned, 3),
        )
    if (unexpected := np.flatnonzero(counts[len(names) : VOID])).size:
        raise WrongMask(
            f"{masks}: found the value {len(names) + unexpected[0]}, expected 0 to "
            f"{len(names) - 1} for {len(names)} classes, or 255 for void"
        )
    if canvas is not None:
        _check_canvas(canvas, sizes, masks)
    if counts.any() and not counts[:VOID].any() and len(rows) == split.size:
        raise ValueError(
            f"{where}: found no pixel of any class in {split.size} masks, all are 255 "
            "(void), expected some; check data.options.mapping"
        )
    _report_pixels(counts, names, masks)


def _read_masks(
    batch: Mapping[str, Any],
) -> tuple[np.ndarray, set[tuple[int, int]], list[str]]:
    """Returns how many pixels each value has, all sizes, and images not turned."""
    counts, not_turned = np.zeros(256, np.int64), []
    sizes: set[tuple[int, int]] = set()
    for image, mask in zip(batch["image"], batch["target"]["label"], strict=True):
        try:
            classes = read_mask(mask) if isinstance(mask, EncodedMask) else mask
            if read_orientation(image) > 4:
                stored_size = decode_image(image).shape[:2]
                if stored_size == classes.shape:
                    not_turned.append(name_image(image))
        except UnreadableImage:
            continue  # it is reported when it is used
        counts += np.bincount(classes.ravel(), minlength=256)
        sizes.add(classes.shape)
    return counts, sizes, not_turned


def _check_canvas(
    canvas: Sequence[int], sizes: set[tuple[int, int]], masks: str
) -> None:
    """Refuses sizes that do not fit the canvas, or that differ without a canvas."""
    largest = tuple(map(max, zip(*sizes, strict=True))) if sizes else (0, 0)
    if canvas:
        fits = largest[0] <= canvas[0] and largest[1] <= canvas[1]
    else:
        fits = len(sizes) <= 1
    if not fits:
        raise ValueError(
            f"data.canvas: found {tuple(canvas)}, expected at least {largest}, height "
            f"and width of the largest of {masks}"
        )


def _report_pixels(counts: np.ndarray, names: Sequence[str], masks: str) -> None:
    """Logs the share of void pixels if it is large, and classes without a pixel."""
    total, valid = counts.sum(), counts[:VOID].sum()
    if total and not valid:
        LOG.warning("%s: all pixels are void", masks)
    elif total and valid < total / 2:
        share = 100 - 100 * valid / total
        LOG.warning("%s: %.0f %% of the pixels are void", masks, share)
    unseen = [names[k] for k in range(len(names)) if not counts[k]]
    if valid and unseen:
        hint = "; 255 counts as void, check data.options.mapping"
        LOG.warning(
            "classes without a pixel in %s: %s%s",
            masks,
            some_of(unseen),
            hint if total > valid else "",
        )
