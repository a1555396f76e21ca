"""The level that is white in images of 16 bits; cameras often use 10, 12 or 14 bits."""

import logging
from typing import Any

import numpy as np

from ..findings import some_of
from ..split import Split, spread_rows
from .decoding import read_levels
from .encoded import Encoded, UnreadableImage

LOG = logging.getLogger(__name__)
MAX_EXAMINED = 16  # images, spread over the split
CAMERA_WHITES = (255, 1023, 4095, 16383)  # white of 8, 10, 12 and 14 bits


def set_white_level(split: Split, max_level: int) -> Split:
    """Returns a split whose images of 16 bits are white at a given level.

    Args:
      split: any split.
      max_level: the level; 0 returns the split unchanged.
    """
    if not max_level:
        return split
    fetch = split.fetch

    def fetch_with_white(rows: np.ndarray) -> dict[str, Any]:
        batch = fetch(rows)
        images = [
            image._replace(max_level=max_level) if isinstance(image, Encoded) else image
            for image in batch["image"]
        ]
        is_array = isinstance(batch["image"], np.ndarray)
        return batch if is_array else {**batch, "image": images}

    return split._replace(fetch=fetch_with_white)


def warn_of_dark_images(split: Split, where: str) -> None:
    """Logs a warning if images of 16 bits use so few levels that they are dark.

    Such images come from cameras of 10, 12 or 14 bits. Up to
    :data:`MAX_EXAMINED` images are examined; images of 8 bits are not decoded.

    Args:
      split: any split.
      where: its name, for messages.
    """
    rows = spread_rows(split, MAX_EXAMINED)
    highest, names = 0, []
    for image in split.fetch(rows)["image"]:
        try:
            levels = read_levels(image) if isinstance(image, Encoded) else None
        except UnreadableImage:
            continue  # it is reported when it is used
        if levels is not None:
            highest = max(highest, int(levels.max(initial=0)))
            names.append(image.name)
    white = next((level for level in CAMERA_WHITES if 0 < highest <= level), 0)
    if white:
        LOG.warning(
            "%s: the levels of %d images of 16 bits end at %d of 65535, so they are "
            "nearly black; data.max_level=%d makes that level white: %s",
            *(where, len(names), highest, white, some_of(names, 3)),
        )
