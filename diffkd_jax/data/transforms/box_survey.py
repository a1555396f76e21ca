"""Inspection of a split with boxes before a run."""

import logging
from collections.abc import Sequence

import numpy as np

from ...config.augmentations import AUGMENTATIONS
from ...config.data import DataConfig
from ..findings import some_of
from ..images.encoded import Encoded, UnreadableImage
from ..images.headers import read_orientation
from ..split import Split, spread_rows
from . import views
from .viewed import canvas_of

LOG = logging.getLogger(__name__)
MAX_EXAMINED = 16  # images, spread over the split


def inspect_for_training(split: Split, data: DataConfig, where: str) -> None:
    """Logs which objects training leaves out, and which share of its images is padding.

    Args:
      split: a split with boxes.
      data: the section ``data`` of a config.
      where: name of the split, for messages.

    Raises:
      ValueError: images do not fit ``data.train_size``.
    """
    _warn_of_orientations(split, where)
    if split.box_summary is None:
        return
    over = np.flatnonzero(split.box_summary.usable > data.max_objects)
    if over.size:
        LOG.warning(
            "%s: %d images have more than %d objects, up to %d; training keeps the "
            "largest (data.max_objects)",
            where,
            over.size,
            data.max_objects,
            split.box_summary.usable.max(),
        )
    if AUGMENTATIONS[data.augment].fits:
        sides = tuple(data.train_resize) or (data.resize,)
        _check_canvas(split, data, sides, "train_size", where)


def inspect_for_evaluation(split: Split, data: DataConfig, where: str) -> None:
    """Logs which share of the images of a split is padding in evaluation.

    Args:
      split: a split with boxes.
      data: the section ``data`` of a config.
      where: name of the split, for messages.

    Raises:
      ValueError: images do not fit ``data.canvas``, or need one.
    """
    _warn_of_orientations(split, where)
    if split.box_summary is not None:
        _check_canvas(split, data, (data.resize,), "canvas", where)


def _check_canvas(
    split: Split, data: DataConfig, shorter: Sequence[int], field: str, where: str
) -> None:
    """Refuses images that do not fit their canvas, and logs the share of padding."""
    assert split.box_summary is not None
    wanted = getattr(data, field)
    sizes, counts = np.unique(split.box_summary.sides, axis=0, return_counts=True)
    used = whole = 0.0
    results = set()
    for side in shorter:
        for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
            shown = tuple(size)
            if side:
                try:
                    shown = views.fit_view(shown, side, data.resize_longest).whole
                except UnreadableImage:
                    continue  # it is reported when it is used
            canvas = canvas_of(shown, wanted, data.two_canvases) or shown
            results.add(canvas)
            if shown[0] > canvas[0] or shown[1] > canvas[1]:
                raise ValueError(
                    f"data.{field}: found {canvas}, expected at least {shown}, height "
                    f"and width of {count} images of {where}"
                )
            used += count * shown[0] * shown[1]
            whole += count * canvas[0] * canvas[1]
    if not wanted and len(results) > 1:
        raise ValueError(
            f"data.{field}: found () for images of sizes {sorted(results)[:4]} in "
            f"{where}, expected a height and a width"
        )
    if whole > used:
        LOG.info(
            "%s: %.0f %% of the images is padding", where, 100 - 100 * used / whole
        )


def _warn_of_orientations(split: Split, where: str) -> None:
    """Warns of images that are not turned as their EXIF orientation says."""
    rows = spread_rows(split, MAX_EXAMINED)
    stored = []
    for image in split.fetch(rows)["image"]:
        try:
            if isinstance(image, Encoded) and read_orientation(image) > 4:
                stored.append(image.name)
        except UnreadableImage:
            continue  # it is reported when it is used
    if stored:
        LOG.warning(
            "%s: %d of %d images have the size of their boxes as stored, and are not "
            "turned as their EXIF orientation says: %s",
            where,
            len(stored),
            len(rows),
            some_of(stored, 3),
        )
