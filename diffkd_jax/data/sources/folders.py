"""Data sets with one folder of images for each class."""

import collections
import logging
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..findings import some_of
from ..formats.file_access import (
    SYSTEM_NAMES,
    list_folders,
    make_image_files,
    select_splits,
)
from ..formats.single_files import require_path
from ..formats.text import normalise_name, printable_name, unique_names
from ..images.headers import IMAGE_ENDINGS
from ..split import Dataset, Split

LOG = logging.getLogger(__name__)
_BELOW = "in directories below"
MAX_COUNTED = 10_000  # files left out below a class; the log needs no exact number


def load_folder(path: str, splits: Sequence[str] = ()) -> Dataset:
    """Loads images ``<split>/<class>/<file>``; classes are sorted by name.

    Folders whose names differ only in their Unicode form are one class.

    A class is a folder with at least one file that has an ending of
    :data:`diffkd_jax.data.images.headers.IMAGE_ENDINGS`. Other files, and all
    files in folders below a class, are left out. The log gives their number; in folders
    below a class it counts up to :data:`MAX_COUNTED` files, and follows no links.
    Hidden files and folders are left out silently. A file that cannot be read later,
    such as a broken link, counts as an image that does not decode.

    Args:
      path: folder of the splits.
      splits: names of the splits to load; all by default, or if one of them is missing.
        Folders of other splits are not searched.

    Raises:
      ValueError: there is no image.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     folder = pathlib.Path(root, "train/cat")
    ...     folder.mkdir(parents=True)
    ...     (folder / "1.jpeg").touch()
    ...     load_folder(root).class_names
    ('cat',)
    """
    root = require_path(path)
    folders_of_splits = list_folders(root)
    files_by_split = {
        split: {
            name: _files(root / split / name) for name in list_folders(root / split)
        }
        for split in select_splits(folders_of_splits, splits)
    }
    for split, classes in files_by_split.items():
        _report_left_out(root / split, {k: other for k, (_, other) in classes.items()})
    names = unique_names(
        k for c in files_by_split.values() for k, (files, _) in c.items() if files
    )
    if not names:
        raise ValueError(
            f"{path}: found no images, expected <split>/<class>/<file>, such as "
            f"train/cat/1.jpeg, ending in one of {list(IMAGE_ENDINGS)}"
        )
    loaded = {}
    for split, classes in files_by_split.items():
        folders_of_class = _by_class(root / split, classes)
        pairs = [
            (os.path.join(split, folder, file), k)
            for k, name in enumerate(names)
            for folder in folders_of_class.get(normalise_name(name), ())
            for file in classes[folder][0]
        ]
        if pairs:
            loaded[split] = _file_split(root, *zip(*pairs, strict=True))
    return Dataset(loaded, tuple(printable_name(name) for name in names))


def _by_class(
    split_folder: pathlib.Path, folders: Iterable[str]
) -> dict[str, list[str]]:
    """Returns the folders of each class, by the normal form of its name."""
    classes: dict[str, list[str]] = {}
    for folder in folders:
        classes.setdefault(normalise_name(folder), []).append(folder)
    if twins := [name for name, spellings in classes.items() if len(spellings) > 1]:
        LOG.warning(
            "%s: several folders whose names differ only in their Unicode form, merged "
            "to one class: %s",
            printable_name(str(split_folder)),
            printable_name(some_of(twins)),
        )
    return classes


def _files(folder: pathlib.Path) -> tuple[list[str], collections.Counter[str]]:
    """Returns the names of images, and the number of other files for each ending."""
    images, others = [], collections.Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == "." or entry.name in SYSTEM_NAMES:
                continue
            if entry.is_dir():
                if not entry.is_symlink() and others[_BELOW] < MAX_COUNTED:
                    others[_BELOW] += _count(entry.path, MAX_COUNTED - others[_BELOW])
            elif entry.name.lower().endswith(IMAGE_ENDINGS) and (
                entry.is_file() or entry.is_symlink()
            ):
                images.append(entry.name)  # a broken link is reported when it is read
            else:
                others[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
    return sorted(images), +others


def _count(folder: str, limit: int) -> int:
    """Returns the number of visible files below a folder, counted up to a limit.

    Links to folders are not followed: they may lead out of the data.
    """
    count = 0
    for _, _, names in os.walk(folder):
        count += sum(name[0] != "." for name in names)
        if count >= limit:
            return limit
    return count


def _report_left_out(
    folder: pathlib.Path, counts_by_class: dict[str, collections.Counter[str]]
) -> None:
    """Logs how many files of each class are left out, and their endings."""
    texts = [
        f"{printable_name(name)} {others.total()} "
        f"({printable_name(some_of(sorted(others)))})"
        for name, others in counts_by_class.items()
        if others
    ]
    if texts:
        LOG.warning(
            "%s: files left out, by class: %s; expected <class>/<file> ending in one "
            "of %s",
            printable_name(str(folder)),
            some_of(texts),
            " ".join(IMAGE_ENDINGS),
        )


def _file_split(
    root: pathlib.Path, files: Sequence[str], labels: Sequence[int]
) -> Split:
    """Creates a split of image files and their labels."""
    read, name, stored = make_image_files(root, files)
    label = np.array(labels, np.int32)

    def fetch(indices: np.ndarray) -> dict[str, Any]:
        images = [read(i) for i in indices]
        return {"image": images, "target": {"label": label[indices]}}

    return Split(len(label), fetch, name, label, stored=stored)
