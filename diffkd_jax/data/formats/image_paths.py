"""Picture files that annotations name, found below a folder and nowhere else."""

import functools
import os
import pathlib
import posixpath
from collections.abc import Callable
from urllib.parse import unquote

from ..images.decoding import Encoded, UnreadableImage, read_orientation, read_size
from .text import make_name_finder


def leaves_folder(path: str) -> bool:
    """Whether a path without detours lies outside of where it is relative to.

    >>> [leaves_folder(path) for path in ("a/b", "..", "../a", "/a", "..a")]
    [False, True, True, True, False]
    """
    return path == ".." or path.startswith(("/", "../"))


def find_below(folder: pathlib.Path, name: str) -> str | None:
    """Returns the path of a file below a folder; None where there is none.

    See :func:`make_finder_below`, which is faster for many names.
    """
    return make_finder_below(folder)(name)


def make_finder_below(folder: pathlib.Path) -> Callable[[str], str | None]:
    """Returns a function that finds the path of a file below a folder by its name.

    Names are taken as they are, then with backslashes as slashes and ``%20`` as what it
    stands for, then in another Unicode form; never by the last part alone, which may be
    that of another file. A link that leads nowhere is found: reading it says so.
    """
    in_any_form = make_path_finder(os.fspath(folder))

    def find(name: str) -> str | None:
        texts = (name, unquote(name.replace("\\", "/")))
        places = [posixpath.normpath(text) for text in texts if "\0" not in text]
        places = [place for place in places if not leaves_folder(place)]
        for place in places:
            if _is_file(os.path.join(folder, place)):
                return place
        for place in places:
            path = in_any_form(place)
            if path is not None and _is_file(os.path.join(folder, path)):
                return path
        return None

    return find


def make_path_finder(folder: str) -> Callable[[str], str | None]:
    """Returns a function that finds a relative path as the disk writes its parts.

    Each part is taken as it is, then in another Unicode form. Folders are listed once.
    """

    @functools.cache
    def names_in(place: str) -> Callable[[str], str | None]:
        try:
            return make_name_finder(os.listdir(os.path.join(folder, place) or "."))
        except OSError:
            return make_name_finder(())

    def find(path: str) -> str | None:
        place = ""
        for part in path.split("/"):
            name = names_in(place)(part)
            if name is None:
                return None
            place = os.path.join(place, name)
        return place

    return find


def _is_file(path: str) -> bool:
    """Whether there is a file, or a link that leads nowhere."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def displayed_size(picture: Encoded) -> tuple[int, int]:
    """Height and width; those of a file that does not decode are of no account."""
    try:
        height, width = read_size(picture)
        return (width, height) if read_orientation(picture) > 4 else (height, width)
    except UnreadableImage:
        return 1, 1
