"""Files and folders of data sets: which are listed, and how images are read."""

import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..findings import some_of
from ..images.encoded import Encoded
from ..split import Stored
from .text import printable_name

LOG = logging.getLogger(__name__)


class ImageFiles(NamedTuple):
    """Image files that are read on demand.

    Attributes:
      read: function from a row to the file.
      name: function from a row to its path, as shown to the user.
      stored: how the files are stored.
    """

    read: Callable[[int], Encoded]
    name: Callable[[int], str]
    stored: Stored


def make_image_files(root: pathlib.Path, paths: Sequence[str]) -> ImageFiles:
    """Returns functions that read and name image files by row.

    Args:
      root: folder that the paths are relative to.
      paths: paths of the images.

    >>> make_image_files(pathlib.Path("data"), ["1.png"]).name(0)
    'data/1.png'
    """
    # An array, since each worker gets a copy; a list of a million paths would be slow.
    encoded_paths = np.array([os.fsencode(path) for path in paths])

    def full_path(index: int) -> str:
        return os.path.join(root, os.fsdecode(encoded_paths[index]))

    def name(index: int) -> str:
        return printable_name(full_path(index))

    def read(index: int) -> Encoded:
        data, fault = read_file(full_path(index))
        return Encoded(data, name(index), fault=fault)

    def size(index: int) -> int:
        try:
            return os.stat(full_path(index)).st_size
        except OSError:
            return -1

    read_bytes = lambda index: read_file(full_path(index))[0]
    stored = Stored(read_bytes, size, encoded_paths, os.fsencode(root))
    return ImageFiles(read, name, stored)


def read_file(file: str) -> tuple[bytes, str]:
    """Returns the bytes of a file, and why it could not be read, or "".

    Args:
      file: path of the file.

    >>> read_file("missing.png")[0]
    b''
    """
    try:
        with open(file, "rb") as stream:
            return stream.read(), ""
    except OSError as error:
        if os.path.islink(file) and not os.path.exists(file):
            target = printable_name(os.readlink(file))
            return b"", f"found a link to {target!r}, expected a file there"
        return b"", f"found no file that can be read: {error.strerror or error}"


# Folders that operating systems and storage devices create beside the user's files.
SYSTEM_NAMES = {"__MACOSX", "@eaDir", "lost+found", "#recycle", "$RECYCLE.BIN"}


def select_splits(available: Sequence[str], splits: Sequence[str]) -> list[str]:
    """Returns the requested splits, or all if none is requested or one is missing.

    Args:
      available: names of the splits of a data set.
      splits: names of the requested splits.

    >>> available = ["test", "train"]
    >>> select_splits(available, ["train"]), select_splits(available, ["val"])
    (['train'], ['test', 'train'])
    """
    wanted = [name for name in available if name in splits]
    return wanted if len(wanted) == len(set(splits)) > 0 else list(available)


def list_folders(root: pathlib.Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted.

    Hidden folders, and those that operating systems create, are left out. The log names
    broken links, which may have been folders.

    Args:
      root: the folder to search.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("train", ".cache", "lost+found"):
    ...         pathlib.Path(root, name).mkdir()
    ...     list_folders(pathlib.Path(root))
    ['train']
    """
    with os.scandir(root) as entries:
        visible = [
            e for e in entries if e.name[0] != "." and e.name not in SYSTEM_NAMES
        ]
    broken_links = [
        e.name for e in visible if e.is_symlink() and not os.path.exists(e.path)
    ]
    if broken_links:
        LOG.warning(
            "%s: links to nothing, left out: %s",
            printable_name(str(root)),
            printable_name(some_of(sorted(broken_links))),
        )
    return sorted(e.name for e in visible if e.is_dir())
