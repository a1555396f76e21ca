"""Splits of a data set: random access to labelled pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """Random access to labelled pictures.

    Attributes:
      size: number of examples.
      fetch: indices ``[n]`` to ``{"image": uint8 [n, h, w, c], "label": int32 [n]}``;
        pictures of different sizes come as a list, of arrays ``[h, w, c]`` or of files
        that are not decoded yet.
      name: index to what a person would look for: a path, or a number.
    """

    size: int
    fetch: Callable[[np.ndarray], dict[str, Any]]
    name: Callable[[int], str] = "example {}".format


class Dataset(NamedTuple):
    """Splits by name, and the names of the classes in label order."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]


def array_split(
    image: np.ndarray, label: np.ndarray, classes: int, where: str
) -> Split:
    """A split of arrays in memory, checked.

    Raises:
      ValueError: shapes, dtypes or labels out of range, with ``where`` in front.

    >>> split = array_split(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]), 2, "here")
    >>> split.fetch(np.array([1]))["image"].shape
    (1, 4, 4, 1)
    """
    image = image[..., None] if image.ndim == 3 else image
    if image.ndim != 4 or image.dtype != np.uint8:
        raise ValueError(
            f"{where}: found images {image.dtype} {image.shape}, expected uint8 "
            "[n, h, w] or [n, h, w, c]"
        )
    if label.shape != image.shape[:1]:
        raise ValueError(
            f"{where}: found {len(image)} images and labels of shape {label.shape}, "
            "expected one label an image"
        )
    check_labels(label, classes, where)
    label = label.astype(np.int32)
    return Split(len(label), lambda i: {"image": image[i], "label": label[i]})


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Parts a training split in two: the rest, and ``size`` examples drawn once.

    The draw does not depend on any seed, so that every run of a study chooses
    hyper-parameters on the same examples.

    Raises:
      ValueError: nothing would be left to train on.
    """
    if not 0 < size < split.size:
        raise ValueError(f"data.holdout: found {size}, expected 1 to {split.size - 1}")
    order = np.random.default_rng(0).permutation(split.size)
    kept, held = np.sort(order[size:]), np.sort(order[:size])
    return subset(split, kept), subset(split, held)


def subset(split: Split, rows: np.ndarray) -> Split:
    """The examples ``rows`` of a split, in that order."""
    return Split(
        len(rows), lambda i: split.fetch(rows[i]), lambda i: split.name(int(rows[i]))
    )


def check_labels(label: np.ndarray, classes: int, where: str) -> None:
    """ValueError, naming ``where``, unless all are integers of ``[0, classes)``."""
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{where}: found labels {label.dtype}, expected integers")
    bad = np.flatnonzero((label < 0) | (label >= classes))
    if bad.size:
        raise ValueError(
            f"{where}: found label {label[bad[0]]} at example {bad[0]}, expected 0 to "
            f"{classes - 1}"
        )
