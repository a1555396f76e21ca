"""Splits of arrays in memory, and checks of their images and labels."""

import numpy as np

from .split import Split, Stored


def make_array_split(
    image: np.ndarray, label: np.ndarray, classes: int, where: str
) -> Split:
    """Creates a split of arrays in memory, after checking them.

    Args:
      image: uint8 ``[n, h, w]`` or ``[n, h, w, c]``.
      label: ``[n]``, whole numbers from 0.
      classes: number of classes.
      where: name of the split, for messages.

    Raises:
      ValueError: other shapes or dtypes, or labels out of range.

    >>> image, label = np.zeros((2, 4, 4), np.uint8), np.array([0, 1])
    >>> split = make_array_split(image, label, 2, "here")
    >>> split.fetch(np.array([1]))["image"].shape
    (1, 4, 4, 1)
    """
    image, label = as_images(image, where), whole_labels(label)
    if label.shape != image.shape[:1]:
        raise ValueError(
            f"{where}: found {len(image)} images and labels of shape {label.shape}, "
            "expected one label for each image"
        )
    check_labels(label, classes, where)
    label = label.astype(np.int32)
    fetch = lambda rows: {"image": image[rows], "target": {"label": label[rows]}}
    return Split(len(label), fetch, label=label, stored=stored_array(image))


def stored_array(image: np.ndarray) -> Stored:
    """Returns access to the bytes and sizes of an array's images, for their checks.

    Args:
      image: ``[n, h, w, c]``.
    """
    size = image[0].nbytes
    return Stored(lambda i: image[i].tobytes(), lambda i: size, in_memory=True)


def as_images(image: np.ndarray, where: str) -> np.ndarray:
    """Returns images as ``[n, h, w, c]``.

    Args:
      image: uint8 ``[n, h, w]`` or ``[n, h, w, c]``.
      where: name of the split, for messages.

    Raises:
      ValueError: another dtype or shape.
    """
    image = image[..., None] if image.ndim == 3 else image
    if image.ndim != 4 or image.dtype != np.uint8:
        raise ValueError(
            f"{where}: found images {image.dtype} {image.shape}, expected uint8 "
            "[n, h, w] or [n, h, w, c]"
        )
    if not image.size:
        raise ValueError(f"{where}: found images {image.shape}, expected at least one")
    if image.shape[-1] not in (1, 3, 4):
        hint = " (channels first?)" if image.shape[1] in (1, 3, 4) else ""
        raise ValueError(
            f"{where}: found images {image.shape}{hint}, expected [n, h, w, c] with 1, "
            "3 or 4 channels last"
        )
    return image


def whole_labels(label: np.ndarray) -> np.ndarray:
    """Returns labels as integers if they are floats of whole numbers, else unchanged.

    Programs for tables write whole numbers as floats.

    Args:
      label: any array.

    >>> whole_labels(np.array([3.0, 0.0])), whole_labels(np.array([0.5]))
    (array([3, 0]), array([0.5]))
    """
    if label.dtype.kind != "f" or not (np.abs(label) < 2**31).all():  # NaN neither
        return label
    return label.astype(np.int64) if (label == np.rint(label)).all() else label


def check_labels(label: np.ndarray, classes: int, where: str) -> None:
    """Raises an error unless all labels are integers in ``[0, classes)``.

    Args:
      label: any array.
      classes: number of classes.
      where: name of the split, for messages.

    Raises:
      ValueError: another dtype, or a label out of range.

    >>> check_labels(np.array([0, 3]), 3, "here")
    Traceback (most recent call last):
    ValueError: here: found label 3 at example 1, expected 0 to 2
    """
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{where}: found labels {label.dtype}, expected integers")
    bad = np.flatnonzero((label < 0) | (label >= classes))
    if bad.size:
        raise ValueError(
            f"{where}: found label {label[bad[0]]} at example {bad[0]}, expected 0 to "
            f"{classes - 1}"
        )
