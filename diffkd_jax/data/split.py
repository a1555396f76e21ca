"""Splits of a data set: random access to images and their targets."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

MAX_CLASSES = 1_000_000  # more than any data set has; bounds what a file can ask for


class BoxSummary(NamedTuple):
    """A summary of the annotations of a split with boxes, one row for each image.

    It is made when the annotations are read, before any image is.

    Attributes:
      usable: int32 ``[n]``, number of objects to train on.
      ignored: int32 ``[n]``, number of objects that are marked to be ignored.
      sides: int32 ``[n, 2]``, height and width in pixels that the boxes belong to.
      ids: bytes ``[n]``, id of each image in its file of annotations, as JSON.
      where: name of the split, for messages.
    """

    usable: np.ndarray
    ignored: np.ndarray
    sides: np.ndarray
    ids: np.ndarray
    where: str

    def select(self, rows: np.ndarray) -> "BoxSummary":
        """Returns the summary of some of the images.

        Args:
          rows: int ``[k]``, rows of the images.
        """
        usable, ignored = self.usable[rows], self.ignored[rows]
        return BoxSummary(usable, ignored, self.sides[rows], self.ids[rows], self.where)


class Stored(NamedTuple):
    """The stored images of a split, as bytes that can be compared without decoding.

    Attributes:
      read: function from a row to the bytes of the image's file, or of its pixels if it
        is in memory.
      size: function from a row to the number of these bytes. None if the number is only
        known after reading them.
      files: bytes ``[n]``, path of each image below ``folder``. None if the images have
        no paths.
      folder: the folder that ``files`` are relative to.
      in_memory: whether the images are arrays in memory.
    """

    read: Callable[[int], bytes]
    size: Callable[[int], int] | None = None
    files: np.ndarray | None = None
    folder: bytes = b""
    in_memory: bool = False

    def select(self, rows: np.ndarray) -> "Stored":
        """Returns some of the stored images.

        Args:
          rows: int ``[k]``, rows of the images.
        """
        size = self.size
        return Stored(
            lambda i: self.read(int(rows[i])),
            None if size is None else lambda i: size(int(rows[i])),
            None if self.files is None else self.files[rows],
            self.folder,
            self.in_memory,
        )


class Finding(NamedTuple):
    """A finding about a split: examples or objects that cannot be right.

    Attributes:
      number: number of these examples or objects.
      total: number of all examples or objects of the split.
      text: one line for messages: the split, what is wrong, and the first of them.
    """

    number: int
    total: int
    text: str


class Split(NamedTuple):
    """Random access to images and their targets.

    Attributes:
      size: number of examples.
      fetch: function from rows ``[n]`` to a batch,
        ``{"image": uint8 [n, h, w, c], "target": {...}}``.
        Arrays of the target are ``[n, ...]``: ``{"label": int32 [n]}`` for classes;
        ``{"label": uint8 [n, h, w]}`` for masks, or a list of
        :class:`diffkd_jax.data.images.masks.EncodedMask`; for boxes see
        :func:`diffkd_jax.data.images.objects.pad_objects`. Images of different sizes
        are a list of arrays ``[h, w, c]``, or of files that are not decoded yet.
      name: function from a row to a name for people: a path, or a number.
      label: int32 ``[size]``, label of each example. None if labels are only known
        after the examples are read, or if there are none.
      box_summary: numbers of objects and sizes of all images, for a split with boxes.
      group: int ``[size]``, group of each example. All examples of a batch are of one
        group. None if examples are mixed freely.
      stored: the stored images, to find copies. None if images are computed when they
        are fetched, or if nobody said how they are stored.
      findings: what was found wrong with the split when it was opened.

    >>> image = np.zeros((9, 4, 4, 3), np.uint8)
    >>> split = Split(len(image), lambda rows: {"image": image[rows], "target": {}})
    >>> split.fetch(np.array([0, 3]))["image"].shape, split.name(3)
    ((2, 4, 4, 3), 'example 3')
    """

    size: int
    fetch: Callable[[np.ndarray], dict[str, Any]]
    name: Callable[[int], str] = "example {}".format
    label: np.ndarray | None = None
    box_summary: BoxSummary | None = None
    group: np.ndarray | None = None
    stored: Stored | None = None
    findings: tuple[Finding, ...] = ()


class Dataset(NamedTuple):
    """A data set: its splits by name, and what they have in common.

    Attributes:
      splits: splits by name.
      class_names: names of the classes in label order, () without classes.
      meta: further JSON values for tasks and models; ``class_names`` may be here.
      transform: how targets follow their images, a
        :class:`diffkd_jax.data.transforms.TargetTransform`, for a kind of target that
        is not built in; None for labels, masks and boxes.

    >>> dataset = Dataset({"train": Split(9, lambda rows: {})}, ("cat", "dog"))
    >>> dataset.splits["train"].size, dataset.class_names
    (9, ('cat', 'dog'))
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...] = ()
    meta: Mapping[str, Any] = MappingProxyType({})
    transform: Any = None


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Divides a training split in two: the rest, and ``size`` examples drawn once.

    The draw does not depend on the seed, so that all runs of a study choose
    hyper-parameters on the same examples.

    Args:
      split: the training split.
      size: number of examples to hold out.

    Raises:
      ValueError: no example would be left to train on.

    >>> train, held_out = hold_out(Split(10, lambda rows: {}), 3)
    >>> train.size, held_out.size
    (7, 3)
    """
    if not 0 < size < split.size:
        raise ValueError(f"data.holdout: found {size}, expected 1 to {split.size - 1}")
    order = np.random.default_rng(0).permutation(split.size)
    remaining, held_out = np.sort(order[size:]), np.sort(order[:size])
    return subset(split, remaining), subset(split, held_out)


def subset(split: Split, rows: np.ndarray) -> Split:
    """Returns some examples of a split, in a given order.

    Args:
      split: any split.
      rows: the examples.

    >>> subset(Split(10, lambda rows: {}), np.array([7, 2])).name(0)
    'example 7'
    """
    # Worker processes get a copy of these functions, and not of the whole split.
    fetch, name = split.fetch, split.name
    return Split(
        len(rows),
        lambda i: fetch(rows[i]),
        lambda i: name(int(rows[i])),
        None if split.label is None else split.label[rows],
        None if split.box_summary is None else split.box_summary.select(rows),
        None if split.group is None else split.group[rows],
        None if split.stored is None else split.stored.select(rows),
    )


def spread_rows(split: Split, count: int) -> np.ndarray:
    """Returns up to ``count`` rows, spread evenly over a split, int ``[m]``.

    Args:
      split: any split.
      count: largest number of rows.

    >>> spread_rows(Split(100, lambda rows: {}), 3)
    array([ 0, 49, 99])
    """
    return np.unique(np.linspace(0, split.size - 1, count).astype(int))


def limit_split(split: Split, size: int) -> Split:
    """Returns ``size`` examples of a split, drawn once, or all if there are not more.

    The draw does not depend on the seed, as in :func:`hold_out`. If labels are known,
    each class keeps its share.

    Args:
      split: any split.
      size: number of examples.

    >>> split = Split(100, lambda rows: {}, label=np.repeat([0, 1, 2], [50, 25, 25]))
    >>> np.bincount(limit_split(split, 8).label)
    array([4, 2, 2])
    """
    if size >= split.size:
        return split
    order = np.random.default_rng(0).permutation(split.size)
    if split.label is not None:
        order = order[np.argsort(split.label[order], kind="stable")]
        order = order[((np.arange(size) + 0.5) * split.size / size).astype(int)]
    return subset(split, np.sort(order[:size]))
