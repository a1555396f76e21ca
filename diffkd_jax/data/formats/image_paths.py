"""Image files that annotations name, searched only below one folder."""

import functools
import os
import pathlib
import posixpath
from collections.abc import Callable
from urllib.parse import unquote

from ..images.encoded import Encoded, UnreadableImage
from ..images.headers import read_orientation, read_size
from .text import make_name_finder


def leaves_folder(path: str) -> bool:
    """Returns whether a normalised relative path leads out of its folder.

    >>> [leaves_folder(path) for path in ("a/b", "..", "../a", "/a", "..a")]
    [False, True, True, True, False]
    """
    return path == ".." or path.startswith(("/", "../"))


def make_finder_below(folder: pathlib.Path) -> Callable[[str], str | None]:
    """Returns a function that finds the path of a file below a folder by its name.

    The function tries the name as it is, then with backslashes as slashes and ``%20``
    decoded, then in another Unicode form. It never searches for the last part alone,
    which may belong to another file. It also finds a link to a missing file, so that
    reading it gives an error.

    Args:
      folder: the folder to search.
    """
    in_any_form = make_path_finder(os.fspath(folder))

    def find(name: str) -> str | None:
        texts = (name, unquote(name.replace("\\", "/")))
        paths = [posixpath.normpath(text) for text in texts if "\0" not in text]
        paths = [path for path in paths if not leaves_folder(path)]
        for path in paths:
            if _is_file(os.path.join(folder, path)):
                return path
        for wanted in paths:
            spelled = in_any_form(wanted)
            if spelled is not None and _is_file(os.path.join(folder, spelled)):
                return spelled
        return None

    return find


def make_path_finder(folder: str) -> Callable[[str], str | None]:
    """Returns a function that finds a relative path in the spelling of the disk.

    The function tries each part as it is, then in another Unicode form. Folders are
    listed once.

    Args:
      folder: the folder that paths are relative to.
    """

    @functools.cache
    def finder_in(subfolder: str) -> Callable[[str], str | None]:
        try:
            return make_name_finder(os.listdir(os.path.join(folder, subfolder) or "."))
        except OSError:
            return make_name_finder(())

    def find(path: str) -> str | None:
        spelled = ""
        for part in path.split("/"):
            name = finder_in(spelled)(part)
            if name is None:
                return None
            spelled = os.path.join(spelled, name)
        return spelled

    return find


def _is_file(path: str) -> bool:
    """Returns whether a path is a file, or a link to a missing file."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def read_displayed_size(image: Encoded) -> tuple[int, int]:
    """Returns height and width as a viewer shows an image; (1, 1) if unreadable.

    Args:
      image: the image file.
    """
    try:
        height, width = read_size(image)
        return (width, height) if read_orientation(image) > 4 else (height, width)
    except UnreadableImage:
        return 1, 1
