"""Lists of the images of a split in PASCAL VOC, and the files that their names mean."""

import itertools
import logging
import os
import pathlib
import unicodedata
from collections.abc import Callable, Sequence

from ..findings import find_repeats, note_finding, some_of
from ..images.headers import IMAGE_ENDINGS
from ..split import Finding
from .text import MAX_LIST_BYTES, make_name_finder, normalise_name, read_text

LOG = logging.getLogger(__name__)


def make_stem_finder(
    folder: pathlib.Path, endings: Sequence[str]
) -> Callable[[str], list[str]]:
    """Returns a function that finds the files of a folder by their name without ending.

    The function tries the name as it is, then in another Unicode form, then without the
    ending of an image, which some lists have. If several files share a name, they are
    sorted by the position of their ending in ``endings``.

    Args:
      folder: the folder to search.
      endings: accepted endings, in lower case; the case of a file's ending is ignored.
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
        spellings = (name, stem) if ending.lower() in IMAGE_ENDINGS else (name,)
        keys = (find(spelling) for spelling in spellings)
        return next((stems[key] for key in keys if key is not None), [])

    return files_of


def list_split_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the list files in a folder, sorted, without hidden files.

    Args:
      folder: the folder, which need not exist.
    """
    names = os.listdir(folder) if folder.is_dir() else []
    lists = (name for name in names if name.lower().endswith(".txt"))
    return [folder / name for name in sorted(lists) if name[0] != "."]


def read_lists(
    files: Sequence[pathlib.Path],
) -> tuple[dict[str, list[str]], dict[str, tuple[Finding, ...]]]:
    """Reads the names of images in the lists of splits, each name once.

    The log says which names occur twice in a list, and which occur in two lists.

    Args:
      files: the lists; a split has the name of its list without ending.

    Returns:
      Names by split, and findings about the data by split.

    Raises:
      ValueError: a line is not just the name of an image, or a list has no names.
    """
    names, findings = {}, {}
    for file in files:
        rows = _read_image_names(file)
        duplicates = find_repeats([normalise_name(name) for name in rows])
        text = "names occur twice in the list, the second left out"
        findings[file.stem] = note_finding(
            list(duplicates), len(rows), text, str(file), rows.__getitem__
        )
        names[file.stem] = [name for i, name in enumerate(rows) if i not in duplicates]
    for first, second in itertools.combinations(files, 2):
        # A list such as trainval contains others on purpose.
        both = [
            {normalise_name(name) for name in names[file.stem]}
            for file in (first, second)
        ]
        shared = both[0] & both[1]
        should_differ = {first.stem, second.stem} <= {"train", "val", "test"}
        if shared and (should_differ or shared not in both):
            LOG.warning(
                "%s and %s: %d images are in both lists: %s",
                *(first, second.name, len(shared), some_of(sorted(shared), 3)),
            )
    return names, findings


def _read_image_names(file: pathlib.Path) -> list[str]:
    """Reads the names of images, one on each line.

    Args:
      file: path of the list.

    Raises:
      ValueError: a line is not just the name of an image, or there are no names; the
        message names the file.
    """
    lines = read_text(file, MAX_LIST_BYTES).splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if invalid := [name for name in names if not _is_name(name)]:
        raise ValueError(
            f"{file}: found {invalid[0][:60]!r}, expected just the name of an image, "
            "such as 2007_000032"
        )
    if not names:
        raise ValueError(f"{file}: found no names, expected one on each line")
    return names


def _is_name(text: str) -> bool:
    """Returns whether a text has only letters, marks, digits and ``_-.``."""
    kinds = {unicodedata.category(c)[0] for c in text if c not in "_-."}
    return kinds <= {"L", "M", "N"} and text[0] != "."
