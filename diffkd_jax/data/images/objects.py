"""The objects of the images of a split: boxes and classes in a few flat arrays."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..split import Doubt, Known, Split, some_of, subset
from ..suspects import note_doubts

LOG = logging.getLogger(__name__)
MIN_SIDE = 1.0  # smallest side of a box that is kept, in pixels
MAX_NUMBER = 1e9  # largest absolute value of a coordinate or an area
MAX_OBJECTS = 10_000  # of one image, since all images of a batch get as many rows


class Objects(NamedTuple):
    """The objects of all images, image after image.

    The arrays are flat, so that a worker process receives a few arrays instead of a
    list of a million dicts.

    Attributes:
      boxes: float32 ``[m, 4]``: left, top, right, bottom in pixels of the image.
      classes: int32 ``[m]``, from 0.
      ignored: bool ``[m]``: crowds and difficult objects. They are never trained on,
        and count neither as hit nor as miss in evaluation.
      area: float32 ``[m]``, in pixels.
      offsets: int64 ``[n + 1]``: image i has the objects ``offsets[i]`` to
        ``offsets[i + 1] - 1``.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    area: np.ndarray
    offsets: np.ndarray


def padded(objects: Objects, rows: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Returns the target of some images, padded with zeros to one number of rows.

    Args:
      objects: objects of a split.
      rows: int ``[n]``, images.
      most: number of rows for each image, at least its number of objects.

    Returns:
      ``boxes`` float32 ``[n, most, 4]``, and ``[n, most]``: ``classes`` int32,
      ``valid`` and ``ignored`` bool, ``area`` float32.

    >>> objects = Objects(np.ones((1, 4), np.float32), np.array([3]), np.array([False]),
    ...     np.ones(1), np.array([0, 0, 1]))
    >>> padded(objects, np.array([1, 0]), 2)["classes"].tolist()
    [[3, 0], [0, 0]]
    """
    shape = len(rows), most
    target = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "classes": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
        "ignored": np.zeros(shape, bool),
        "area": np.zeros(shape, np.float32),
    }
    for i, row in enumerate(rows):
        start, stop = objects.offsets[row], objects.offsets[row + 1]
        target["valid"][i, : stop - start] = True
        for name in ("boxes", "classes", "ignored", "area"):
            target[name][i, : stop - start] = getattr(objects, name)[start:stop]
    return target


class Read(NamedTuple):
    """The annotations of a file, in any order.

    Attributes:
      image: int ``[m]``, image of each annotation.
      boxes: float64 ``[m, 4]``: left, top, right, bottom in pixels.
      classes: int ``[m]``.
      ignored: bool ``[m]``.
      area: float64 ``[m]``, in pixels. An area that is not above 0 is replaced by that
        of the box within its image; None replaces all areas.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    area: np.ndarray | None

    def of(self, rows: np.ndarray) -> "Read":
        """Returns some of the annotations.

        Args:
          rows: positions of the annotations.
        """
        image, boxes, classes = self.image, self.boxes, self.classes
        area = None if self.area is None else self.area[rows]
        return Read(image[rows], boxes[rows], classes[rows], self.ignored[rows], area)


def collect(
    found: Read,
    sides: np.ndarray,
    where: str,
    called: Callable[[int], str],
    drop_doubles: bool = False,
) -> tuple[Objects, tuple[Doubt, ...]]:
    """Clips and filters annotations, and sorts them by image.

    Boxes without area, outside their image, or with a side below one pixel are dropped;
    the log has one line for each kind of change. The log also counts objects that occur
    twice with the same image, class, box and mark: a perfect detector would find only
    one of them, and miss the other.

    Args:
      found: all annotations, with numbers within :data:`MAX_NUMBER`.
      sides: int ``[n, 2]``, height and width of each image.
      where: name of the split, for messages.
      called: function from the position of an annotation to its name in messages.
      drop_doubles: if true, keep only the first of objects that occur twice.

    Returns:
      The objects, and findings about the data.

    Raises:
      ValueError: an image has more than :data:`MAX_OBJECTS` objects.
    """
    boxes = found.boxes.reshape(-1, 4)
    limit = np.tile(sides[found.image][:, ::-1], 2)
    clipped = np.clip(boxes, 0, limit)
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    outside = ~flat & (clipped[:, 2:] <= clipped[:, :2]).any(1)
    thin = (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(1) & ~flat & ~outside
    is_kept = ~(flat | outside | thin)
    twice, total = _twice(found, boxes, np.flatnonzero(is_kept)), int(is_kept.sum())
    if drop_doubles:
        is_kept[twice] = False
    moved = is_kept & (clipped != boxes).any(1)
    for rows, text in (
        (flat, "boxes of no area, left out"),
        (outside, "boxes outside of their image, left out"),
        (thin, "boxes with a side below 1 pixel, left out"),
        (moved, "boxes beyond the edge of their image, clipped"),
    ):
        report(np.flatnonzero(rows), text, where, called)
    done = "the second left out" if drop_doubles else "see data.options.drop_doubles"
    text = f"objects stand twice (same image, class and box), {done}"
    doubts = note_doubts(twice, total, text, where, called)
    box_area = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    area = box_area if found.area is None else found.area
    none = is_kept & ~(area > 0)
    report(
        np.flatnonzero(none), "areas missing or 0, taken from the box", where, called
    )
    stated_area = area[is_kept & ~none]
    if (
        len(stated_area) > 1
        and (stated_area == stated_area[0]).all()
        and (box_area[is_kept] != stated_area[0]).any()
    ):
        LOG.warning(
            "%s: the area of all %d objects is %g",
            where,
            len(stated_area),
            stated_area[0],
        )
    order = np.flatnonzero(is_kept)
    order = order[np.argsort(found.image[order], kind="stable")]
    counts = np.bincount(found.image[order], minlength=len(sides))
    if counts.max(initial=0) > MAX_OBJECTS:
        raise ValueError(
            f"{where}: found {counts.max()} objects in one image, expected at most "
            f"{MAX_OBJECTS}"
        )
    objects = Objects(
        clipped[order].astype(np.float32),
        found.classes[order].astype(np.int32),
        found.ignored[order].astype(bool),
        np.where(none, box_area, area)[order].astype(np.float32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )
    return objects, () if drop_doubles else doubts


def _twice(found: Read, boxes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the rows that repeat image, class, box and mark of an earlier row.

    Boxes are compared to a hundredth of a pixel, since texts of floats are rounded.
    """
    columns = np.round(boxes[rows], 2).T
    others = found.classes[rows], found.ignored[rows], found.image[rows]
    keys = np.stack([*columns, *others])
    order = np.lexsort([rows, *keys])
    keys = keys[:, order]
    return np.sort(rows[order[1:]][(keys[:, 1:] == keys[:, :-1]).all(0)])


def report(
    which: Sequence[int] | np.ndarray,
    text: str,
    where: str,
    called: Callable[[int], str],
) -> None:
    """Logs a warning about some annotations, if there are any.

    Args:
      which: positions of the annotations.
      text: what is unusual about them.
      where: name of the split.
      called: function from the position of an annotation to its name in messages.
    """
    if len(which):
        shown = some_of((called(int(i)) for i in which), 3)
        LOG.warning("%s: %d %s: %s", where, len(which), text, shown)


def object_split(
    objects: Objects,
    sides: np.ndarray,
    ids: Sequence[Any] | np.ndarray,
    where: str,
    read_image: Callable[[int], Any],
    name: Callable[[int], str],
) -> Split:
    """Creates a split of images, which are read on demand, and of their objects.

    Args:
      objects: objects of all images.
      sides: int ``[n, 2]``, height and width of each image.
      ids: ids of the images in the file, as JSON bytes.
      where: name of the split, for messages.
      read_image: function from a row to pixels or a file.
      name: function from a row to a name for messages.
    """
    each = np.diff(objects.offsets)
    before = np.concatenate([[0], np.cumsum(objects.ignored)])
    ignored = np.diff(before[objects.offsets]).astype(np.int32)
    usable = (each - ignored).astype(np.int32)
    max_objects = max(1, int(each.max(initial=0)))

    def fetch(rows):
        target = padded(objects, np.asarray(rows), max_objects)
        return {"image": [read_image(int(i)) for i in rows], "target": target}

    known = Known(usable, ignored, np.asarray(sides, np.int32), np.array(ids), where)
    return Split(len(each), fetch, name, known=known)


def drop_empty_images(split: Split, keep_empty: bool) -> Split:
    """Returns a split without the images that have no object to train on.

    Args:
      split: any split; without known objects it is returned unchanged.
      keep_empty: if true, these images stay, and only a warning is logged.

    Raises:
      ValueError: no image has an object.
    """
    known = split.known
    if known is None:
        return split
    if not known.usable.any():
        ignored = int(known.ignored.sum())
        if ignored:
            raise ValueError(
                f"{known.where}: found iscrowd (or difficult) at {ignored} of {ignored}"
                " objects, expected some to train on (data.options.crowd_objects takes "
                "them as objects)"
            )
        raise ValueError(f"{known.where}: found no objects, expected some to train on")
    full = np.flatnonzero(known.usable)
    if len(full) < split.size:
        LOG.warning(
            "%s: %d of %d images have no usable object, %s",
            known.where,
            split.size - len(full),
            split.size,
            "kept" if keep_empty else "left out of training (data.keep_empty)",
        )
    return split if keep_empty else subset(split, full)
