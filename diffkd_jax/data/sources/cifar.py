"""CIFAR-10 and CIFAR-100 as their authors ship them, or as sheets of PNG."""

from typing import Any

import numpy as np

from ..class_names import names_of_labels
from ..formats.cifar_pickles import read_batch, read_names
from ..formats.single_files import read_json, read_sheet, require_path
from ..split import Dataset, array_split, whole_labels
from .pairs import class_list


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
    root = require_path(path)
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
    root = require_path(path)
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
