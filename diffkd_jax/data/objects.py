"""Objects of the pictures of a split: boxes and classes in a few flat arrays."""

from typing import NamedTuple

import numpy as np


class Objects(NamedTuple):
    """The objects of all pictures, one picture after the other.

    Flat, so that a worker process gets a few arrays and no list of a million dicts.

    Attributes:
      boxes: float32 ``[m, 4]``: left, top, right, bottom in pixels of the picture.
      classes: int32 ``[m]``, from 0.
      ignored: bool ``[m]``: crowds and difficult ones, never trained on, and neither
        hit nor miss in evaluation.
      area: float32 ``[m]``, pixels.
      offsets: int64 ``[n + 1]``: those of picture i are ``offsets[i]`` to
        ``offsets[i + 1]``.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    area: np.ndarray
    offsets: np.ndarray


def padded(objects: Objects, rows: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """The target of some pictures, each with as many rows, those of padding zero.

    Args:
      objects: of a split.
      rows: int ``[n]``, pictures.
      most: rows, no fewer than the objects of any of them.

    Returns:
      ``boxes`` float32 ``[n, most, 4]``, ``classes`` int32, ``valid`` and ``ignored``
      bool, ``area`` float32, all ``[n, most]``.

    >>> one = Objects(np.ones((1, 4), np.float32), np.array([3]), np.array([False]),
    ...     np.ones(1), np.array([0, 0, 1]))
    >>> padded(one, np.array([1, 0]), 2)["classes"].tolist()
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
