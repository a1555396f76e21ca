"""Grey levels of images of 16 bits, of which cameras often use 10, 12 or 14."""

import logging

import numpy as np

from ..split import Split, some_of
from .decoding import Encoded, UnreadableImage, stored_levels

LOG = logging.getLogger(__name__)
MOST_LOOKED_AT = 16  # images, all over the split
OF_CAMERAS = (255, 1023, 4095, 16383)  # white of 8, 10, 12 and 14 bits


def with_white(split: Split, max_level: int) -> Split:
    """Returns a split whose images of 16 bits are white at a level.

    Args:
      split: any.
      max_level: the level; 0 leaves the split as it is.
    """
    if not max_level:
        return split
    fetch = split.fetch

    def fetch_with_white(rows):
        batch = fetch(rows)
        images = [
            image._replace(max_level=max_level) if isinstance(image, Encoded) else image
            for image in batch["image"]
        ]
        is_array = isinstance(batch["image"], np.ndarray)
        return batch if is_array else {**batch, "image": images}

    return split._replace(fetch=fetch_with_white)


def look_at_levels(split: Split, where: str) -> None:
    """Says in the log if images of 16 bits use a small part of their levels.

    They would be nearly black. Up to :data:`MOST_LOOKED_AT` images are looked at, of
    which those of 8 bits are not decoded.

    Args:
      split: any.
      where: its name, for messages.
    """
    rows = np.unique(np.linspace(0, split.size - 1, MOST_LOOKED_AT).astype(int))
    highest, names = 0, []
    for image in split.fetch(rows)["image"]:
        try:
            levels = stored_levels(image) if isinstance(image, Encoded) else None
        except UnreadableImage:
            continue  # named where it is used
        if levels is not None:
            highest = max(highest, int(levels.max(initial=0)))
            names.append(image.name)
    white = next((level for level in OF_CAMERAS if 0 < highest <= level), 0)
    if white:
        LOG.warning(
            "%s: the levels of %d images of 16 bits end at %d of 65535, so they are "
            "nearly black; data.max_level=%d makes that level white: %s",
            *(where, len(names), highest, white, some_of(names, 3)),
        )
