"""Where pictures come from: standard formats on disk, read into one structure."""

import pathlib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from .formats import (
    decode,
    existing,
    read_batch,
    read_idx,
    read_json,
    read_npz,
    read_sheet,
)


class Split(NamedTuple):
    """Random access to labelled pictures.

    Attributes:
      size: number of examples.
      fetch: indices ``[n]`` to ``{"image": uint8 [n, h, w, c], "label": int32 [n]}``;
        pictures of different sizes come as a list of ``[h, w, c]``.
    """

    size: int
    fetch: Callable[[np.ndarray], dict[str, Any]]


class Dataset(NamedTuple):
    """Splits by name, and the names of the classes in label order."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]


FASHION_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


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
    _check_labels(label, classes, where)
    label = label.astype(np.int32)
    return Split(len(label), lambda i: {"image": image[i], "label": label[i]})


def load_embedded(path: str = "") -> Dataset:
    """The class-balanced 8,000/2,000 subset of Fashion-MNIST that ships with us."""
    del path
    file = resources.files(__package__) / "embedded/fashion_mnist.npz"
    with resources.as_file(file) as local:
        return load_npz(str(local))._replace(class_names=FASHION_CLASSES)


def load_npz(path: str) -> Dataset:
    """Arrays in a ``.npz``: ``<split>/image`` uint8, ``<split>/label`` integers.

    An optional array ``class_names`` names the classes.
    """
    arrays = read_npz(path)
    names = [k.removesuffix("/image") for k in arrays if k.endswith("/image")]
    if not names or any(f"{n}/label" not in arrays for n in names):
        raise ValueError(
            f"{path}: found arrays {sorted(arrays)}, expected '<split>/image' and "
            "'<split>/label', such as 'train/image'"
        )
    if "class_names" in arrays:
        classes = tuple(str(name) for name in arrays["class_names"])
    else:
        top = max(int(arrays[f"{n}/label"].max(initial=0)) for n in names)
        classes = tuple(str(k) for k in range(top + 1))
    splits = {
        n: array_split(
            arrays[f"{n}/image"], arrays[f"{n}/label"], len(classes), f"{path}: {n}"
        )
        for n in names
    }
    return Dataset(splits, classes)


def load_idx(path: str) -> Dataset:
    """MNIST-style idx files, plain or ``.gz``: the full Fashion-MNIST or MNIST."""
    splits = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        image = read_idx(path, f"{prefix}-images-idx3-ubyte", 3)
        label = read_idx(path, f"{prefix}-labels-idx1-ubyte", 1)
        splits[name] = array_split(image, label, 10, f"{path}: {name}")
    return Dataset(splits, FASHION_CLASSES)


def load_cifar10(path: str) -> Dataset:
    """CIFAR-10: the standard python batches, or lossless PNG sheets.

    Batches: ``data_batch_1`` to ``5`` and ``test_batch``. Sheets: the same names
    with ``.png`` (one picture a row, 1024 pixels wide), and label lists
    ``train_lables.json`` and ``test_lables.json`` (spelled so).
    """
    root = existing(path)
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    splits = {}
    for name, stems in files.items():
        if (root / f"{stems[0]}.png").exists():
            image = np.concatenate([read_sheet(root / f"{s}.png") for s in stems])
            label = np.asarray(read_json(root / f"{name}_lables.json"))
        else:
            batches = [read_batch(root / s, b"labels") for s in stems]
            image, label = (
                np.concatenate(arrays) for arrays in zip(*batches, strict=True)
            )
        splits[name] = array_split(image, label, 10, f"{path}: {name}")
    return Dataset(splits, CIFAR10_CLASSES)


def load_cifar100(path: str) -> Dataset:
    """CIFAR-100 in the standard python format: files ``train`` and ``test``."""
    root = existing(path)
    splits = {}
    for name in ("train", "test"):
        image, label = read_batch(root / name, b"fine_labels")
        splits[name] = array_split(image, label, 100, f"{path}: {name}")
    return Dataset(splits, tuple(str(k) for k in range(100)))


def load_folder(path: str) -> Dataset:
    """Pictures in ``<split>/<class>/<file>``; classes are sorted by name."""
    root = existing(path)
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    if not folders:
        raise ValueError(f"{path}: found no folders, expected <split>/<class>/<file>")
    names = sorted({c.name for s in folders for c in s.iterdir() if c.is_dir()})
    splits = {}
    for folder in folders:
        files = [
            (file, names.index(c.name))
            for c in sorted(folder.iterdir())
            if c.is_dir()
            for file in sorted(c.iterdir())
            if file.is_file()
        ]
        if files:
            splits[folder.name] = _file_split(files)
    if not splits:
        raise ValueError(f"{path}: found no files, expected <split>/<class>/<file>")
    return Dataset(splits, tuple(names))


def load_tfds(path: str, name: str) -> Dataset:
    """A prepared TFDS classification set, stored as array records; no TensorFlow.

    Args:
      path: TFDS data directory, or "" for its default.
      name: registered name such as ``imagenet2012`` or ``cifar100:3.0.2``.
    """
    import tensorflow_datasets as tfds  # slow to import, needed by this source alone

    try:
        builder = tfds.builder(name, data_dir=path or None)
        features = builder.info.features
        if features is None or not {"image", "label"} <= set(features):
            found = sorted(features or ())
            raise ValueError(f"found features {found}, expected image and label")
        classes = tuple(features["label"].names)
        splits = {}
        for split in builder.info.splits:
            source = builder.as_data_source(split=split)
            where = f"tfds {name}: {split}"
            splits[split] = Split(
                len(source), _record_fetch(source, len(classes), where)
            )
    except (
        tfds.core.DatasetNotFoundError,
        NotImplementedError,
        AssertionError,
    ) as error:
        raise ValueError(
            f"tfds {name!r} in {path or 'the default directory'}: found no set "
            "prepared as array records, expected the result of download_and_prepare("
            f"file_format='array_record'): {error}"
        ) from None
    if not splits:
        raise ValueError(f"tfds {name!r} in {path}: found no splits, prepare it first")
    return Dataset(splits, classes)


DATASETS: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_embedded": load_embedded,
    "fashion_mnist": load_idx,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "npz": load_npz,
    "folder": load_folder,
    "tfds": load_tfds,
}


def load(name: str, path: str = "") -> Dataset:
    """Opens a data set.

    Args:
      name: a key of :data:`DATASETS`; ``tfds/<name>`` for one of TFDS.
      path: file or directory it lies in.

    Raises:
      ValueError: no such data set, or damaged or inconsistent files.
      FileNotFoundError: a missing file, with what was expected.

    >>> data = load("fashion_mnist_embedded")
    >>> data.splits["train"].size, data.splits["test"].size, len(data.class_names)
    (8000, 2000, 10)
    """
    key, _, argument = name.partition("/")
    if key not in DATASETS or bool(argument) != (key == "tfds"):
        names = [f"{k}/<name>" if k == "tfds" else k for k in DATASETS]
        raise ValueError(f"data.name: found {name!r}, expected one of {names}")
    return DATASETS[key](path, argument) if argument else DATASETS[key](path)


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
    return Split(len(rows), lambda i: split.fetch(rows[i]))


def _file_split(files: Sequence[tuple[pathlib.Path, int]]) -> Split:
    def fetch(indices):
        chosen = [files[i] for i in np.atleast_1d(indices)]
        images = [decode(file.read_bytes(), str(file)) for file, _ in chosen]
        return {"image": images, "label": np.array([k for _, k in chosen], np.int32)}

    return Split(len(files), fetch)


def _record_fetch(source, classes: int, where: str) -> Callable:
    def fetch(indices):
        records = source.__getitems__([int(i) for i in np.atleast_1d(indices)])
        label = np.array([r["label"] for r in records], np.int32)
        _check_labels(label, classes, where)
        return {"image": [np.asarray(r["image"]) for r in records], "label": label}

    return fetch


def _check_labels(label: np.ndarray, classes: int, where: str) -> None:
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{where}: found labels {label.dtype}, expected integers")
    bad = np.flatnonzero((label < 0) | (label >= classes))
    if bad.size:
        raise ValueError(
            f"{where}: found label {label[bad[0]]} at example {bad[0]}, expected 0 to "
            f"{classes - 1}"
        )
