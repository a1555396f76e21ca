"""Lists of the images of a split in PASCAL VOC, and the files of the names in them."""

import itertools
import logging
import os
import pathlib
import unicodedata
from collections.abc import Callable, Sequence

from ..images.decoding import IMAGE_ENDINGS
from ..split import Doubt, some_of
from ..suspects import note_doubts, repeated
from .text import MAX_LIST_BYTES, make_name_finder, normalise_name, read_text

LOG = logging.getLogger(__name__)


def make_stem_finder(
    folder: pathlib.Path, endings: Sequence[str]
) -> Callable[[str], list[str]]:
    """Returns a function that finds the files of a folder by their name without ending.

    The name is taken as it is, then in another Unicode form, then without the ending of
    an image, which some lists have. Of several files of one
    name those come first whose ending comes first in ``endings``; its case does not
    matter.
    """
    stems: dict[str, list[str]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        stem, ending = os.path.splitext(name)
        if name[0] != "." and ending.lower() in endings:
            stems.setdefault(stem, []).append(name)
    for names in stems.values():
        names.sort(key=lambda n: (endings.index(os.path.splitext(n)[1].lower()), n))
    find = make_name_finder(stems)

    def files_of(name: str) -> list[str]:
        stem, ending = os.path.splitext(name)
        stems_of_name = (name, stem) if ending.lower() in IMAGE_ENDINGS else (name,)
        keys = (find(own) for own in stems_of_name)
        return next((stems[key] for key in keys if key is not None), [])

    return files_of


def list_split_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the lists in a folder, sorted; hidden files are left out."""
    names = os.listdir(folder) if folder.is_dir() else []
    lists = (name for name in names if name.lower().endswith(".txt"))
    return [folder / name for name in sorted(lists) if name[0] != "."]


def read_lists(
    files: Sequence[pathlib.Path],
) -> tuple[dict[str, list[str]], dict[str, tuple[Doubt, ...]]]:
    """Reads the names of images in lists of splits, each name once.

    The log says which names stand twice in a list, and which are in two lists.

    Args:
      files: the lists, by whose stems the splits are called.

    Returns:
      Names by split, and what cannot be right of them.

    Raises:
      ValueError: a line that is not the name of an image alone, or no names.
    """
    names, doubts = {}, {}
    for file in files:
        rows = read_image_names(file)
        again = repeated([normalise_name(name) for name in rows])
        text = "names stand twice in the list, the second left out"
        doubts[file.stem] = note_doubts(
            list(again), len(rows), text, str(file), rows.__getitem__
        )
        names[file.stem] = [name for i, name in enumerate(rows) if i not in again]
    for first, second in itertools.combinations(files, 2):
        # A list such as trainval holds others by purpose.
        both = [
            {normalise_name(name) for name in names[file.stem]}
            for file in (first, second)
        ]
        shared = both[0] & both[1]
        apart = {first.stem, second.stem} <= {"train", "val", "test"}
        if shared and (apart or shared not in both):
            LOG.warning(
                "%s and %s: %d images are in both lists: %s",
                *(first, second.name, len(shared), some_of(sorted(shared), 3)),
            )
    return names, doubts


def read_image_names(file: pathlib.Path) -> list[str]:
    """Reads names of images, one for each line.

    Raises:
      ValueError: names the file; a line that is not the name of an image alone.
    """
    lines = read_text(file, MAX_LIST_BYTES).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if wrong := [name for name in names if not _is_name(name)]:
        raise ValueError(
            f"{file}: found {wrong[0][:60]!r}, expected the name of a picture alone, "
            "such as 2007_000032"
        )
    if not names:
        raise ValueError(f"{file}: found no names, expected one a line")
    return names


def _is_name(text: str) -> bool:
    """Whether a text may be a file's name: letters, marks, digits and ``_-.`` alone."""
    kinds = {unicodedata.category(c)[0] for c in text if c not in "_-."}
    return kinds <= {"L", "M", "N"} and text[0] != "."
