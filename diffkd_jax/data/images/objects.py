"""The objects of the images of a split: boxes and classes in a few flat arrays."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..split import BoxSummary, Split, subset

LOG = logging.getLogger(__name__)


class Objects(NamedTuple):
    """The objects of many images, in flat arrays with one row for each object.

    A worker process thus receives a few arrays instead of a list of a million dicts.

    Attributes:
      image: int ``[m]``, row of the object's image in its split.
      boxes: float ``[m, 4]``: left, top, right, bottom in pixels of the image.
      classes: int ``[m]``, from 0.
      ignored: bool ``[m]``: crowds and difficult objects. They are never trained on,
        and count neither as hit nor as miss in evaluation.
      area: float ``[m]``, in square pixels.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    area: np.ndarray

    def select(self, rows: np.ndarray) -> "Objects":
        """Returns some of the objects.

        Args:
          rows: int ``[k]``, positions of the objects.
        """
        return Objects(*(values[rows] for values in self))


def pad_objects(
    objects: Objects, rows: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """Returns the target of some images: their objects, padded to one number of rows.

    Args:
      objects: objects of a split, in the order of their images.
      rows: int ``[n]``, images.
      count: number of objects after padding, at least that of each image.

    Returns:
      ``boxes`` float32 ``[n, count, 4]``, and ``[n, count]``: ``classes`` int32,
      ``valid`` and ``ignored`` bool, ``area`` float32. Rows that are not ``valid`` are
      zero.

    >>> objects = Objects(np.array([1]), np.ones((1, 4)), np.array([3]),
    ...     np.array([False]), np.ones(1))
    >>> pad_objects(objects, np.array([1, 0]), 2)["classes"].tolist()
    [[3, 0], [0, 0]]
    """
    shape = len(rows), count
    target = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "classes": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
        "ignored": np.zeros(shape, bool),
        "area": np.zeros(shape, np.float32),
    }
    # The dtype of the table: a search for another one would convert the whole table.
    rows = np.asarray(rows, objects.image.dtype)
    starts = np.searchsorted(objects.image, rows)
    stops = np.searchsorted(objects.image, rows, "right")
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        target["valid"][i, : stop - start] = True
        for name in ("boxes", "classes", "ignored", "area"):
            target[name][i, : stop - start] = getattr(objects, name)[start:stop]
    return target


def make_object_split(
    objects: Objects,
    sides: np.ndarray,
    ids: Sequence[Any] | np.ndarray,
    where: str,
    read_image: Callable[[int], Any],
    name: Callable[[int], str],
) -> Split:
    """Creates a split of images, which are read on demand, and of their objects.

    Args:
      objects: objects of all images, in the order of the images.
      sides: int ``[n, 2]``, height and width of each image.
      ids: ids of the images in the file, as JSON bytes.
      where: name of the split, for messages.
      read_image: function from a row to pixels or a file.
      name: function from a row to a name for messages.
    """
    images, ignored = objects.image, objects.ignored
    ignored_counts = np.bincount(images[ignored], minlength=len(sides))
    usable_counts = np.bincount(images[~ignored], minlength=len(sides))
    max_objects = max(1, int((usable_counts + ignored_counts).max(initial=0)))

    def fetch(rows: np.ndarray) -> dict[str, Any]:
        target = pad_objects(objects, rows, max_objects)
        return {"image": [read_image(int(i)) for i in rows], "target": target}

    summary = BoxSummary(
        usable_counts.astype(np.int32),
        ignored_counts.astype(np.int32),
        np.asarray(sides, np.int32),
        np.array(ids),
        where,
    )
    return Split(len(sides), fetch, name, box_summary=summary)


def drop_empty_images(split: Split, keep_empty: bool) -> Split:
    """Returns a split without the images that have no object to train on.

    Args:
      split: any split; one without boxes is returned unchanged.
      keep_empty: if true, these images stay, and only a warning is logged.

    Raises:
      ValueError: no image has an object.
    """
    summary = split.box_summary
    if summary is None:
        return split
    if not summary.usable.any():
        ignored = int(summary.ignored.sum())
        if ignored:
            raise ValueError(
                f"{summary.where}: found iscrowd (or difficult) at {ignored} of "
                f"{ignored} objects, expected some to train on "
                "(data.options.crowd_objects takes them as objects)"
            )
        raise ValueError(
            f"{summary.where}: found no objects, expected some to train on"
        )
    full = np.flatnonzero(summary.usable)
    if len(full) < split.size:
        LOG.warning(
            "%s: %d of %d images have no usable object, %s",
            summary.where,
            split.size - len(full),
            split.size,
            "kept" if keep_empty else "left out of training (data.keep_empty)",
        )
    return split if keep_empty else subset(split, full)
