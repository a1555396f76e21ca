"""Splits of a data set: random access to images and their targets."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

MAX_CLASSES = 1_000_000  # more than any data set has; bounds what a file can ask for


class Known(NamedTuple):
    """The facts about images with boxes that are known before they are read.

    Attributes:
      usable: int32 ``[n]``, number of objects to train on.
      ignored: int32 ``[n]``, number of other objects.
      sides: int32 ``[n, 2]``, height and width of the annotated image.
      ids: bytes ``[n]``, id of each image in its file, as JSON.
      where: name of the split, for messages.
    """

    usable: np.ndarray
    ignored: np.ndarray
    sides: np.ndarray
    ids: np.ndarray
    where: str

    def of(self, rows: np.ndarray) -> "Known":
        """Returns what is known of some of the images.

        Args:
          rows: the images.
        """
        usable, ignored = self.usable[rows], self.ignored[rows]
        return Known(usable, ignored, self.sides[rows], self.ids[rows], self.where)


class Stored(NamedTuple):
    """The storage of the images of a split, to compare them without decoding.

    Attributes:
      read: function from a row to the bytes of its file, or of its pixels.
      size: function from a row to the number of these bytes; None if only reading tells
        it.
      files: bytes ``[n]``, paths of the images below ``folder``; None if they are not
        files of their own.
      folder: folder of the files.
      in_memory: whether they are arrays in memory.
    """

    read: Callable[[int], bytes]
    size: Callable[[int], int] | None = None
    files: np.ndarray | None = None
    folder: bytes = b""
    in_memory: bool = False

    def of(self, rows: np.ndarray) -> "Stored":
        """Returns how some of the images are stored.

        Args:
          rows: the images.
        """
        size = self.size
        return Stored(
            lambda i: self.read(int(rows[i])),
            None if size is None else lambda i: size(int(rows[i])),
            None if self.files is None else self.files[rows],
            self.folder,
            self.in_memory,
        )


class Doubt(NamedTuple):
    """A finding about a split: examples or objects that cannot be right.

    Attributes:
      number: how many there are.
      total: number of all examples or objects.
      text: description for messages, with the place and the first of them.
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
      label: int32 ``[size]``, labels of all examples, if they are known without reading
        them.
      known: the same for images with boxes.
      group: int ``[size]``; all examples of a batch have one group.
      stored: how the images are stored; None if images are made when they are fetched,
        or if it is not known.
      doubts: findings about the split.
    """

    size: int
    fetch: Callable[[np.ndarray], dict[str, Any]]
    name: Callable[[int], str] = "example {}".format
    label: np.ndarray | None = None
    known: Known | None = None
    group: np.ndarray | None = None
    stored: Stored | None = None
    doubts: tuple[Doubt, ...] = ()


class Dataset(NamedTuple):
    """A data set: splits by name, and what is known of all of them.

    Attributes:
      splits: splits by name.
      class_names: names of the classes in label order, () without classes.
      meta: further JSON values for tasks and models; ``class_names`` may be here.
      transform: how targets follow their images, a
        :class:`diffkd_jax.data.transforms.TargetTransform`, for a kind of target that
        is not built in; None for labels, masks and boxes.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...] = ()
    meta: Mapping[str, Any] = MappingProxyType({})
    transform: Any = None


def array_split(
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

    >>> split = array_split(np.zeros((2, 4, 4), np.uint8), np.array([0, 1]), 2, "here")
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
    return Split(len(label), fetch, label=label, stored=in_memory(image))


def in_memory(image: np.ndarray) -> Stored:
    """Returns how the rows of an array are stored.

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


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Divides a training split in two: the rest, and ``size`` examples drawn once.

    The draw does not depend on the seed, so that all runs of a study choose
    hyper-parameters on the same examples.

    Args:
      split: the training split.
      size: number of examples to hold out.

    Raises:
      ValueError: no example would be left to train on.
    """
    if not 0 < size < split.size:
        raise ValueError(f"data.holdout: found {size}, expected 1 to {split.size - 1}")
    order = np.random.default_rng(0).permutation(split.size)
    rest, held_out = np.sort(order[size:]), np.sort(order[:size])
    return subset(split, rest), subset(split, held_out)


def subset(split: Split, rows: np.ndarray) -> Split:
    """Returns some examples of a split, in a given order.

    Args:
      split: any split.
      rows: the examples.
    """
    fetch, name = split.fetch, split.name  # workers get a copy of these alone
    return Split(
        len(rows),
        lambda i: fetch(rows[i]),
        lambda i: name(int(rows[i])),
        None if split.label is None else split.label[rows],
        None if split.known is None else split.known.of(rows),
        None if split.group is None else split.group[rows],
        None if split.stored is None else split.stored.of(rows),
    )


def limited(split: Split, size: int) -> Split:
    """Returns ``size`` examples of a split, drawn once, or all if there are not more.

    The draw does not depend on the seed, as in :func:`hold_out`. If labels are known,
    each class keeps its share.

    Args:
      split: any split.
      size: number of examples.

    >>> label = np.repeat([0, 1, 2], [50, 25, 25])
    >>> split = array_split(np.zeros((100, 2, 2), np.uint8), label, 3, "here")
    >>> np.bincount(limited(split, 8).label)
    array([4, 2, 2])
    """
    if size >= split.size:
        return split
    order = np.random.default_rng(0).permutation(split.size)
    if split.label is not None:
        order = order[np.argsort(split.label[order], kind="stable")]
        order = order[((np.arange(size) + 0.5) * split.size / size).astype(int)]
    return subset(split, np.sort(order[:size]))


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
    """
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{where}: found labels {label.dtype}, expected integers")
    bad = np.flatnonzero((label < 0) | (label >= classes))
    if bad.size:
        raise ValueError(
            f"{where}: found label {label[bad[0]]} at example {bad[0]}, expected 0 to "
            f"{classes - 1}"
        )


def some_of(texts: Iterable[str], most: int = 5) -> str:
    """Returns a list for a line of a log: the first texts, and how many more there are.

    Args:
      texts: the texts.
      most: largest number of texts to show.

    >>> some_of("abcdefgh", 3)
    'a, b, c and 5 more'
    """
    rest = iter(texts)
    first = ", ".join(itertools.islice(rest, most))
    more = sum(1 for _ in rest)
    return f"{first} and {more} more" if more else first
