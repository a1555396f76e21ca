"""Pictures in one directory a class."""

import collections
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ..formats.single_files import require_path
from ..formats.text import normalise_name, printable_name, unique_names
from ..images.decoding import IMAGE_ENDINGS, Encoded
from ..split import Dataset, Split, Stored, some_of

LOG = logging.getLogger(__name__)
# What systems and their tools leave beside the files of people.
OF_SYSTEMS = {"__MACOSX", "@eaDir", "lost+found", "#recycle", "$RECYCLE.BIN"}
BELOW = "in directories below"
MOST_COUNTED = 10_000  # of what is left out: the log needs no more


def load_folder(path: str, splits: Sequence[str] = ()) -> Dataset:
    """Pictures in ``<split>/<class>/<file>``; classes are sorted by name.

    Folders are one class where their names differ in their Unicode form alone.

    A class is a directory with at least one file that ends in one of
    :data:`PICTURES`; other files, and directories below a class, are left out and
    counted in the log, those of directories below up to :data:`MOST_COUNTED` and no
    links followed. Hidden files and directories are left out silently. A file that
    cannot be read later, such as a link that leads nowhere, counts as a picture that
    does not decode.

    Args:
      path: directory of the splits.
      splits: those that are needed, where all of them are there; the directories
        beside them are then not looked at. All by default.
    """
    root = require_path(path)
    there = visible_folders(root)
    found = {
        split: {
            name: _files(root / split / name) for name in visible_folders(root / split)
        }
        for split in needed(there, splits)
    }
    for split, classes in found.items():
        _report_left_out(root / split, {k: other for k, (_, other) in classes.items()})
    names = unique_names(
        k for c in found.values() for k, (files, _) in c.items() if files
    )
    if not names:
        raise ValueError(
            f"{path}: found no pictures, expected <split>/<class>/<file>, such as "
            f"train/cat/1.jpeg, ending in one of {list(IMAGE_ENDINGS)}"
        )
    made = {}
    for split, classes in found.items():
        folders = _by_class(root / split, classes)
        pairs = [
            (os.path.join(split, folder, file), k)
            for k, name in enumerate(names)
            for folder in folders.get(normalise_name(name), ())
            for file in classes[folder][0]
        ]
        if pairs:
            made[split] = _file_split(root, *zip(*pairs, strict=True))
    return Dataset(made, tuple(printable_name(name) for name in names))


def _by_class(where: pathlib.Path, folders: Iterable[str]) -> dict[str, list[str]]:
    """Returns the folders of each class, whose name is in normal form."""
    classes: dict[str, list[str]] = {}
    for folder in folders:
        classes.setdefault(normalise_name(folder), []).append(folder)
    if twins := [name for name, found in classes.items() if len(found) > 1]:
        LOG.warning(
            "%s: several folders whose names differ in their Unicode form alone, taken "
            "as one class each: %s",
            printable_name(str(where)),
            printable_name(some_of(twins)),
        )
    return classes


class Files(NamedTuple):
    """Image files, read when they are asked for.

    Attributes:
      read: row to the file.
      name: row to its path, as a person would look for it.
      stored: how they are stored.
    """

    read: Callable[[int], Encoded]
    name: Callable[[int], str]
    stored: Stored


def picture_files(root: pathlib.Path, paths: Sequence[str]) -> Files:
    """Returns image files by their row.

    Args:
      root: what the paths are relative to.
      paths: of the images.
    """
    # An array, since workers get a copy: a list of a million paths would be slow.
    places = np.array([os.fsencode(path) for path in paths])

    def full(index):
        return os.path.join(root, os.fsdecode(places[index]))

    def name(index):
        return printable_name(full(index))

    def read(index):
        data, fault = content(full(index))
        return Encoded(data, name(index), fault=fault)

    def size(index):
        try:
            return os.stat(full(index)).st_size
        except OSError:
            return -1

    bare = lambda index: content(full(index))[0]
    return Files(read, name, Stored(bare, size, places, os.fsencode(root)))


def content(file: str) -> tuple[bytes, str]:
    """Returns the bytes of a file, and "" or why it cannot be read."""
    try:
        with open(file, "rb") as stream:
            return stream.read(), ""
    except OSError as error:
        if os.path.islink(file) and not os.path.exists(file):
            target = printable_name(os.readlink(file))
            return b"", f"found a link to {target!r}, where no file is"
        return b"", f"found no file that can be read: {error.strerror or error}"


def needed(there: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Those of the splits that are asked for, if they are all there; else all.

    >>> needed(["test", "train"], ["train"]), needed(["test", "train"], ["val"])
    (['train'], ['test', 'train'])
    """
    wanted = [name for name in there if name in splits]
    return wanted if len(wanted) == len(set(splits)) > 0 else list(there)


def visible_folders(root: pathlib.Path) -> list[str]:
    """Names of the folders in another one but for what systems leave there.

    The log names links that lead nowhere: they may have been folders.
    """
    with os.scandir(root) as entries:
        seen = [e for e in entries if e.name[0] != "." and e.name not in OF_SYSTEMS]
    lost = [e.name for e in seen if e.is_symlink() and not os.path.exists(e.path)]
    if lost:
        LOG.warning(
            "%s: links that lead nowhere, left out: %s",
            printable_name(str(root)),
            printable_name(some_of(sorted(lost))),
        )
    return sorted(e.name for e in seen if e.is_dir())


def _files(folder: pathlib.Path) -> tuple[list[str], collections.Counter[str]]:
    """Names of pictures, and how many files of which ending are left out."""
    pictures, others = [], collections.Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == "." or entry.name in OF_SYSTEMS:
                continue
            if entry.is_dir():
                if not entry.is_symlink() and others[BELOW] < MOST_COUNTED:
                    others[BELOW] += _count(entry.path, MOST_COUNTED - others[BELOW])
            elif entry.name.lower().endswith(IMAGE_ENDINGS) and (
                entry.is_file() or entry.is_symlink()
            ):
                pictures.append(entry.name)  # a link that leads nowhere is told later
            else:
                others[os.path.splitext(entry.name)[1].lower() or "no ending"] += 1
    return sorted(pictures), +others


def _count(folder: str, most: int) -> int:
    """Files below a directory that are not hidden, counted up to ``most``.

    Links to directories are not followed: they may lead out of the data.
    """
    count = 0
    for _, _, names in os.walk(folder):
        count += sum(name[0] != "." for name in names)
        if count >= most:
            return most
    return count


def _report_left_out(
    folder: pathlib.Path, classes: dict[str, collections.Counter[str]]
) -> None:
    texts = [
        f"{printable_name(name)} {others.total()} "
        f"({printable_name(some_of(sorted(others)))})"
        for name, others in classes.items()
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


def _file_split(root: pathlib.Path, files: Sequence[str], labels) -> Split:
    read, name, stored = picture_files(root, files)
    label = np.array(labels, np.int32)

    def fetch(indices):
        images = [read(i) for i in indices]
        return {"image": images, "target": {"label": label[indices]}}

    return Split(len(label), fetch, name, label, stored=stored)
