"""Checks of the annotated objects of a split: what is dropped, clipped and reported."""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from ..findings import note_finding, some_of
from ..split import Finding
from .objects import Objects

LOG = logging.getLogger(__name__)
MIN_SIDE = 1.0  # smallest side of a box that is kept, in pixels
MAX_NUMBER = 1e9  # largest absolute value of a coordinate or an area
MAX_OBJECTS = 10_000  # of one image, since all images of a batch get as many rows


def clean_objects(
    annotations: Objects,
    sides: np.ndarray,
    where: str,
    name_of: Callable[[int], str],
    *,
    box_area: bool = False,
    drop_doubles: bool = False,
) -> tuple[Objects, tuple[Finding, ...]]:
    """Clips and filters annotations, and sorts them by image.

    Boxes without area, outside their image, or with a side below one pixel are dropped;
    the log has one line for each kind of change. The log also counts objects that occur
    twice with the same image, class, box and mark: a perfect detector would find only
    one of them, and miss the other.

    Args:
      annotations: all annotations, in any order. Their numbers are within
        :data:`MAX_NUMBER`.
      sides: int ``[n, 2]``, height and width of each image.
      where: name of the split, for messages.
      name_of: function from the position of an annotation to its name in messages.
      box_area: if true, areas are those of the boxes within their images. If false,
        only areas that are not above 0 are replaced by these.
      drop_doubles: if true, keep only the first of objects that occur twice.

    Returns:
      The objects, sorted by image, in arrays of 32 bits; and findings about the data.

    Raises:
      ValueError: an image has more than :data:`MAX_OBJECTS` objects.
    """
    boxes = annotations.boxes
    limit = np.tile(sides[annotations.image][:, ::-1], 2)
    clipped = np.clip(boxes, 0, limit)
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = ~flat & (clipped[:, 2:] <= clipped[:, :2]).any(1)
    thin = (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(1) & ~flat & ~outside
    is_kept = ~(flat | outside | thin)
    twice = _twice(annotations, np.flatnonzero(is_kept))
    total = int(is_kept.sum())
    if drop_doubles:
        is_kept[twice] = False
    moved = is_kept & (clipped != boxes).any(1)
    for rows, text in (
        (flat, "boxes without area, left out"),
        (outside, "boxes outside their image, left out"),
        (thin, "boxes with a side below 1 pixel, left out"),
        (moved, "boxes beyond the edge of their image, clipped"),
    ):
        warn_of_annotations(np.flatnonzero(rows), text, where, name_of)
    done = "the second left out" if drop_doubles else "see data.options.drop_doubles"
    text = f"objects occur twice (same image, class and box), {done}"
    findings = note_finding(twice, total, text, where, name_of)
    area = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    if not box_area:
        area = _fill_areas(annotations.area, area, is_kept, where, name_of)
    order = np.flatnonzero(is_kept)
    order = order[np.argsort(annotations.image[order], kind="stable")]
    counts = np.bincount(annotations.image[order], minlength=len(sides))
    if counts.max(initial=0) > MAX_OBJECTS:
        raise ValueError(
            f"{where}: found {counts.max()} objects in one image, expected at most "
            f"{MAX_OBJECTS}"
        )
    objects = Objects(
        annotations.image[order].astype(np.int32),
        clipped[order].astype(np.float32),
        annotations.classes[order].astype(np.int32),
        annotations.ignored[order].astype(bool),
        area[order].astype(np.float32),
    )
    return objects, () if drop_doubles else findings


def _fill_areas(
    area: np.ndarray,
    box_area: np.ndarray,
    is_kept: np.ndarray,
    where: str,
    name_of: Callable[[int], str],
) -> np.ndarray:
    """Returns areas; those that are missing or not above 0 are taken from the box."""
    lacks_area = is_kept & ~(area > 0)
    text = "areas missing or 0, taken from the box"
    warn_of_annotations(np.flatnonzero(lacks_area), text, where, name_of)
    stated = area[is_kept & ~lacks_area]
    if (
        len(stated) > 1
        and (stated == stated[0]).all()
        and (box_area[is_kept] != stated[0]).any()
    ):
        LOG.warning(
            "%s: the area of all %d objects is %g", where, len(stated), stated[0]
        )
    return np.where(lacks_area, box_area, area)


def _twice(annotations: Objects, rows: np.ndarray) -> np.ndarray:
    """Returns the rows that repeat image, class, box and mark of an earlier row.

    Boxes are compared to a hundredth of a pixel, since texts of floats are rounded.
    """
    image, boxes, classes, ignored, _ = annotations.select(rows)
    keys = np.stack([*np.round(boxes, 2).T, classes, ignored, image])
    order = np.lexsort([rows, *keys])
    keys = keys[:, order]
    return np.sort(rows[order[1:]][(keys[:, 1:] == keys[:, :-1]).all(0)])


def warn_of_annotations(
    which: Sequence[int] | np.ndarray,
    text: str,
    where: str,
    name_of: Callable[[int], str],
) -> None:
    """Logs a warning about some annotations, if there are any.

    Args:
      which: positions of the annotations.
      text: what is unusual about them.
      where: name of the split.
      name_of: function from the position of an annotation to its name in messages.
    """
    if len(which):
        shown = some_of((name_of(int(i)) for i in which), 3)
        LOG.warning("%s: %d %s: %s", where, len(which), text, shown)
