"""Where pictures come from: standard formats on disk, read into one structure."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..named import call, find, keywords
from .arrays import load_embedded, load_npz
from .cifar_batches import read_batch, read_names
from .cityscapes import load_cityscapes
from .class_names import names_of_labels
from .coco import load_coco
from .folders import load_folder
from .formats import existing, read_idx, read_json, read_sheet
from .pairs import class_list, load_masks
from .records import load_tfds
from .scene_boxes import load_scene_boxes
from .scenes import load_scenes
from .shards import load_tar
from .split import Dataset, array_split, whole_labels
from .voc import load_voc
from .voc_boxes import load_voc_boxes


def load_idx(path: str, *, classes: Any = "") -> Dataset:
    """Idx files, plain or ``.gz``, such as those of Fashion-MNIST and of MNIST.

    The names of the classes are those of clothes if the labels are those of
    Fashion-MNIST, else numbers: digits and letters come in files of the same names.

    Args:
      path: folder of the four files.
      classes: names of the classes, as a tuple or with commas between, or how many
        there are; 10 by default.

    Raises:
      ValueError: damaged files, or labels that are no classes.
      FileNotFoundError: a missing file.
    """
    names = class_list(10 if classes == "" else classes)
    splits, labels = {}, []
    for name, prefix in (("train", "train"), ("test", "t10k")):
        image = read_idx(path, f"{prefix}-images-idx3-ubyte", 3)
        label = read_idx(path, f"{prefix}-labels-idx1-ubyte", 1)
        splits[name] = array_split(image, label, len(names), f"{path}: {name}")
        labels.append(label)
    if classes == "":
        names = names_of_labels(*labels, classes=len(names))
    return Dataset(splits, names)


def load_cifar10(path: str, *, classes: Any = "") -> Dataset:
    """CIFAR-10: the standard python batches, or lossless PNG sheets.

    Batches: ``data_batch_1`` to ``5`` and ``test_batch``. Sheets: the same names
    with ``.png`` (one image for each row, 1024 pixels wide), and label lists
    ``train_lables.json`` and ``test_lables.json`` (spelled so). The names of the
    classes are those in ``batches.meta`` if it is there, or those of CIFAR-10 if the
    labels are its own, else numbers.

    Args:
      path: folder of the files.
      classes: names of the classes instead, as a tuple or with commas between.

    Raises:
      ValueError: damaged files, labels that are no classes, or another number of names.
      FileNotFoundError: a missing file.
    """
    root = existing(path)
    files = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    splits, labels = {}, []
    for name, stems in files.items():
        if (root / f"{stems[0]}.png").exists():
            image = np.concatenate([read_sheet(root / f"{s}.png") for s in stems])
            label = whole_labels(np.asarray(read_json(root / f"{name}_lables.json")))
        else:
            batches = [read_batch(root / s, b"labels") for s in stems]
            image, label = (
                np.concatenate(arrays) for arrays in zip(*batches, strict=True)
            )
        splits[name] = array_split(image, label, 10, f"{path}: {name}")
        labels.append(label)
    names = _given_names(classes, 10) or read_names(
        root / "batches.meta", b"label_names", 10
    )
    return Dataset(splits, names or names_of_labels(*labels, classes=10))


def load_cifar100(path: str, *, classes: Any = "") -> Dataset:
    """CIFAR-100 in the standard python format: files ``train`` and ``test``.

    The names of the classes are those in the file ``meta`` if it is there, else
    numbers.

    Args:
      path: folder of the files.
      classes: names of the classes instead, as a tuple or with commas between.

    Raises:
      ValueError: damaged files, labels that are no classes, or another number of names.
      FileNotFoundError: a missing file.
    """
    root = existing(path)
    splits = {}
    for name in ("train", "test"):
        image, label = read_batch(root / name, b"fine_labels")
        splits[name] = array_split(image, label, 100, f"{path}: {name}")
    names = _given_names(classes, 100) or read_names(
        root / "meta", b"fine_label_names", 100
    )
    return Dataset(splits, names or tuple(str(k) for k in range(100)))


def _given_names(classes: Any, count: int) -> tuple[str, ...]:
    """Returns names from an option, () for none; refuses another number of them."""
    names = () if classes == "" else class_list(classes)
    if names and len(names) != count:
        raise ValueError(
            f"data.options.classes: found {len(names)} names, expected {count}"
        )
    return names


DATASETS: dict[str, Callable[..., Dataset]] = {
    "fashion_mnist_embedded": load_embedded,
    "fashion_mnist": load_idx,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "npz": load_npz,
    "folder": load_folder,
    "tar": load_tar,
    "tfds": load_tfds,
    "cityscapes": load_cityscapes,
    "masks": load_masks,
    "voc": load_voc,
    "scenes": load_scenes,
    "scene_boxes": load_scene_boxes,
    "coco": load_coco,
    "voc_boxes": load_voc_boxes,
}


def options_taken(name: str) -> set[str] | None:
    """Names of the options of a data set, or None where they are not known.

    >>> sorted(options_taken("scenes"))
    ['count', 'objects', 'scale', 'size']
    """
    key = name.partition("/")[0]
    return set(keywords(DATASETS[key])) if key in DATASETS else None


def load(
    name: str,
    path: str = "",
    splits: Sequence[str] = (),
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Dataset:
    """Opens a data set.

    Args:
      name: a key of :data:`DATASETS`; ``tfds/<name>`` for one of TFDS; or
        ``package.module:name`` of a function ``(path, **options) -> Dataset``, which is
        imported.
      path: file or directory it lies in.
      splits: those that are needed, for sources that find others; all by default.
      options: further arguments of the function that opens it.

    Raises:
      ValueError: no such data set, or damaged or inconsistent files.
      FileNotFoundError: a missing file, with what was expected.

    >>> data = load("fashion_mnist_embedded")
    >>> data.splits["train"].size, data.splits["test"].size, len(data.class_names)
    (8000, 2000, 10)
    """
    if ":" in name.partition("/")[0]:
        loaded = call(find(name, DATASETS, "data.name"), options, "data.options", path)
        if not isinstance(loaded, Dataset):
            raise ValueError(
                f"data.name: found {name!r}, which gives {type(loaded).__name__}, "
                "expected a diffkd_jax.data.Dataset"
            )
        return loaded
    key, _, argument = name.partition("/")
    if key not in DATASETS or bool(argument) != (key == "tfds"):
        names = [f"{k}/<name>" if k == "tfds" else k for k in DATASETS]
        raise ValueError(f"data.name: found {name!r}, expected one of {names}")
    function = DATASETS[key]
    given: tuple[Any, ...] = (path, argument) if argument else (path,)
    if "splits" in keywords(function):
        given = (*given, splits)
    return call(function, options, "data.options", *given)
