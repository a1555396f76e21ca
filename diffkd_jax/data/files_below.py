"""Picture files that annotations name, found below a folder and nowhere else."""

import os
import pathlib
import posixpath
from urllib.parse import unquote

from .decoding import Encoded, UnreadablePicture, orientation_of, size_of


def leads_out(path: str) -> bool:
    """Whether a path without detours lies outside of where it is relative to.

    >>> [leads_out(path) for path in ("a/b", "..", "../a", "/a", "..a")]
    [False, True, True, True, False]
    """
    return path == ".." or path.startswith(("/", "../"))


def place_below(folder: pathlib.Path, name: str) -> str | None:
    """Path of a file below a folder; None where there is none.

    Names are taken as they are, then with backslashes as slashes and ``%20`` as what it
    stands for; never by the last part alone, which may be that of another file.
    """
    for text in (name, unquote(name.replace("\\", "/"))):
        place = posixpath.normpath(text)
        if not leads_out(place) and os.path.isfile(os.path.join(folder, place)):
            return place
    return None


def size_as_shown(picture: Encoded) -> tuple[int, int]:
    """Height and width; those of a file that does not decode are of no account."""
    try:
        height, width = size_of(picture)
        return (width, height) if orientation_of(picture) > 4 else (height, width)
    except UnreadablePicture:
        return 1, 1
