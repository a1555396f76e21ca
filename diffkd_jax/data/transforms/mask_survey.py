"""A look at some masks of a split before anything is trained on them."""

import logging
from collections.abc import Sequence

import numpy as np

from ..images.decoding import UnreadableImage, decode_image, read_orientation
from ..images.masks import VOID, EncodedMask, WrongMask, read_mask
from ..split import Split, some_of
from .viewed import name_image

LOG = logging.getLogger(__name__)
MOST_LOOKED_AT = 16  # masks, all over the split


def look(
    split: Split,
    names: Sequence[str],
    where: str,
    canvas: Sequence[int] | None = None,
) -> None:
    """Looks at a few masks of a split, and says in the log what is strange of them.

    Classes without a pixel, more than half of the pixels void, and pictures that are
    taken as they are stored, against their EXIF orientation.

    Args:
      split: with masks.
      names: of the classes.
      where: name of the split, for messages.
      canvas: that the pictures are evaluated on, () for none; None for not at all.

    Raises:
      WrongMask: a mask that cannot be right, or holds more classes than ``names``.
      ValueError: no pixel that counts in any mask of the split, or pictures that need
        another canvas.
    """
    rows = np.unique(np.linspace(0, split.size - 1, MOST_LOOKED_AT).astype(int))
    batch = split.fetch(rows)
    counts, stored = np.zeros(256, np.int64), []
    sizes: set[tuple[int, int]] = set()
    for picture, mask in zip(batch["image"], batch["target"]["label"], strict=True):
        try:
            classes = read_mask(mask) if isinstance(mask, EncodedMask) else mask
            if read_orientation(picture) > 4 and decode_image(picture).shape[:2] == (
                classes.shape
            ):
                stored.append(name_image(picture))
        except UnreadableImage:
            continue  # named where it is used
        counts += np.bincount(classes.ravel(), minlength=256)
        sizes.add(classes.shape)
    of = f"{len(rows)} of {split.size} masks of {where}"
    if stored:
        LOG.warning(
            "%d of these pictures have the size of their mask as stored, and are not "
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
                "255 (void), expected some (data.options.mapping?)"
            )
        LOG.warning("%s: all pixels are void", of)
    elif total and valid < total / 2:
        LOG.warning("%s: %.0f %% of the pixels are void", of, 100 - 100 * valid / total)
    unseen = [names[k] for k in range(len(names)) if not counts[k]]
    if valid and unseen:
        hint = " (255 counts as void: data.options.mapping?)" if total > valid else ""
        LOG.warning("classes without a pixel in %s: %s%s", of, some_of(unseen), hint)
