"""Inspection of some masks of a split before a run."""

import logging
from collections.abc import Sequence

import numpy as np

from ..findings import some_of
from ..images.decoding import decode_image
from ..images.encoded import UnreadableImage
from ..images.headers import read_orientation
from ..images.mask_rules import VOID, WrongMask
from ..images.masks import EncodedMask, read_mask
from ..split import Split
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
    rows = np.unique(np.linspace(0, split.size - 1, MAX_EXAMINED).astype(int))
    batch = split.fetch(rows)
    counts, stored = np.zeros(256, np.int64), []
    sizes: set[tuple[int, int]] = set()
    for image, mask in zip(batch["image"], batch["target"]["label"], strict=True):
        try:
            classes = read_mask(mask) if isinstance(mask, EncodedMask) else mask
            if read_orientation(image) > 4 and decode_image(image).shape[:2] == (
                classes.shape
            ):
                stored.append(name_image(image))
        except UnreadableImage:
            continue  # it is reported when it is used
        counts += np.bincount(classes.ravel(), minlength=256)
        sizes.add(classes.shape)
    of = f"{len(rows)} of {split.size} masks of {where}"
    if stored:
        LOG.warning(
            "%d of these images have the size of their mask as stored, and are not "
            "turned as their EXIF orientation says: %s",
            len(stored),
            some_of(stored, 3),
        )
    if (strange := np.flatnonzero(counts[len(names) : VOID])).size:
        raise WrongMask(
            f"{of}: found the value {len(names) + strange[0]}, expected 0 to "
            f"{len(names) - 1} for {len(names)} classes, or 255 for void"
        )
    largest = tuple(map(max, zip(*sizes, strict=True))) if sizes else (0, 0)
    if canvas is not None and (
        (not canvas and len(sizes) > 1)
        or (canvas and (largest[0] > canvas[0] or largest[1] > canvas[1]))
    ):
        raise ValueError(
            f"data.canvas: found {tuple(canvas)}, expected at least {largest}, height "
            f"and width of the largest of {of}"
        )
    total, valid = counts.sum(), counts[:VOID].sum()
    if total and not valid:
        if len(rows) == split.size:
            raise ValueError(
                f"{where}: found no pixel of any class in {split.size} masks, all are "
                "255 (void), expected some; check data.options.mapping"
            )
        LOG.warning("%s: all pixels are void", of)
    elif total and valid < total / 2:
        LOG.warning("%s: %.0f %% of the pixels are void", of, 100 - 100 * valid / total)
    unseen = [names[k] for k in range(len(names)) if not counts[k]]
    if valid and unseen:
        hint = (
            "; 255 counts as void, check data.options.mapping" if total > valid else ""
        )
        LOG.warning("classes without a pixel in %s: %s%s", of, some_of(unseen), hint)
