"""CIFAR-10 and CIFAR-100 as their authors publish them, or as PNG sheets."""

from typing import Any

import numpy as np

from ..array_splits import make_array_split, whole_labels
from ..class_names import recognise_class_names
from ..formats.cifar_pickles import read_batch, read_names
from ..formats.class_lists import parse_class_names
from ..formats.single_files import read_json, read_sheet, require_path
from ..split import Dataset


def load_cifar10(path: str, *, classes: Any = "") -> Dataset:
    """Loads CIFAR-10 from the standard python batches or from lossless PNG sheets.

    Batches are the files ``data_batch_1`` to ``data_batch_5`` and ``test_batch``.
    Sheets are files of the same names with ``.png`` (one image for each row, 1024
    pixels wide), with lists of labels ``train_lables.json`` and ``test_lables.json``
    (spelled so). The names of the classes are those in ``batches.meta`` if this file
    exists. Otherwise they are those of CIFAR-10 if the labels are, and else numbers.

    Args:
      path: folder of the files.
      classes: names of the classes to use instead, as a tuple or separated by commas.

    Raises:
      ValueError: a file is damaged, a label is not a class, or the number of names is
        wrong.
      FileNotFoundError: a file is missing.

    >>> import json, pathlib, tempfile
    >>> import cv2
    >>> sheet = cv2.imencode(".png", np.zeros((1, 1024, 3), np.uint8))[1].tobytes()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(1, 6):
    ...         _ = pathlib.Path(folder, f"data_batch_{i}.png").write_bytes(sheet)
    ...     _ = pathlib.Path(folder, "test_batch.png").write_bytes(sheet)
    ...     for name, count in (("train", 5), ("test", 1)):
    ...         file = pathlib.Path(folder, f"{name}_lables.json")
    ...         _ = file.write_text(json.dumps([0] * count))
    ...     load_cifar10(folder).splits["train"].size
    5
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
        splits[name] = make_array_split(image, label, 10, f"{path}: {name}")
        labels.append(label)
    names = _names_from_option(classes, 10) or read_names(
        root / "batches.meta", b"label_names", 10
    )
    return Dataset(splits, names or recognise_class_names(*labels, classes=10))


def load_cifar100(path: str, *, classes: Any = "") -> Dataset:
    """Loads CIFAR-100 from the standard python files ``train`` and ``test``.

    The names of the classes are those in the file ``meta`` if it exists, and otherwise
    numbers.

    Args:
      path: folder of the files.
      classes: names of the classes to use instead, as a tuple or separated by commas.

    Raises:
      ValueError: a file is damaged, a label is not a class, or the number of names is
        wrong.
      FileNotFoundError: a file is missing.

    >>> import pathlib, pickle, tempfile
    >>> batch = {b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [7]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train", "test"):
    ...         _ = pathlib.Path(folder, name).write_bytes(pickle.dumps(batch))
    ...     load_cifar100(folder).splits["train"].label
    array([7], dtype=int32)
    """
    root = require_path(path)
    splits = {}
    for name in ("train", "test"):
        image, label = read_batch(root / name, b"fine_labels")
        splits[name] = make_array_split(image, label, 100, f"{path}: {name}")
    names = _names_from_option(classes, 100) or read_names(
        root / "meta", b"fine_label_names", 100
    )
    return Dataset(splits, names or tuple(str(k) for k in range(100)))


def _names_from_option(classes: Any, count: int) -> tuple[str, ...]:
    """Returns names from an option, () for none; refuses a wrong number of names."""
    names = () if classes == "" else parse_class_names(classes)
    if names and len(names) != count:
        raise ValueError(
            f"data.options.classes: found {len(names)} names, expected {count}"
        )
    return names
