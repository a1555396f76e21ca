"""Xml files of PASCAL VOC, each with the image that it annotates."""

import logging
import os
import pathlib
import posixpath
from collections.abc import Callable
from typing import NamedTuple

from ..findings import some_of
from ..images.headers import IMAGE_ENDINGS
from .file_access import read_file
from .image_paths import make_finder_below
from .text import make_name_finder, printable_name
from .voc_lists import make_stem_finder
from .voc_xml import MAX_BYTES, VocAnnotation, read_annotation

LOG = logging.getLogger(__name__)


class VocFile(NamedTuple):
    """An xml file and its image, as paths below the root.

    Attributes:
      xml: path of the xml file.
      image: path of the image, or None if there is none.
      entry: content of the xml file.
    """

    xml: str
    image: str | None
    entry: VocAnnotation


def list_xml(folder: pathlib.Path) -> list[str]:
    """Returns the names of the xml files in a folder that are not hidden, sorted.

    Args:
      folder: the folder.
    """
    return sorted(
        name
        for name in os.listdir(folder)
        if name.lower().endswith(".xml") and name[0] != "."
    )


def make_voc_reader(root: pathlib.Path, folder: str) -> Callable[..., VocFile]:
    """Returns a function that reads an xml file below the root and finds its image.

    The function takes the path of the xml file below the root, and optionally the name
    of the image without its ending. By default this is the name of the xml file; if
    there is no such image, it is the file that the xml states as ``filename``. If
    several images differ only in their ending, the one that ``filename`` states is
    taken.

    Args:
      root: folder that the paths are relative to.
      folder: folder of the images below the root, "" for the root itself.

    Raises:
      ValueError: by the function, a file that cannot be read or is invalid.
    """
    find_by_stem = make_stem_finder(root / folder, IMAGE_ENDINGS)
    find_by_path = make_finder_below(root / folder)

    def read(xml: str, stem: str = "") -> VocFile:
        file_name = printable_name(os.path.join(root, xml))
        try:
            with open(root / xml, "rb") as stream:
                entry = read_annotation(stream.read(MAX_BYTES + 1), file_name)
        except OSError as error:
            fault = read_file(os.path.join(root, xml))[1]  # such as a broken link
            raise ValueError(f"{file_name}: {fault or error}") from None
        candidates = find_by_stem(stem or os.path.splitext(os.path.basename(xml))[0])
        file = None
        if candidates:
            file = candidates[0]
        elif entry.filename:
            file = find_by_path(entry.filename)
        if len(candidates) > 1 and entry.filename:
            stated_name = posixpath.basename(entry.filename.replace("\\", "/"))
            file = make_name_finder(candidates)(stated_name) or file
        return VocFile(xml, None if file is None else os.path.join(folder, file), entry)

    return read


def keep_files_with_image(
    files: list[VocFile], skip_missing: bool, split_name: str
) -> list[VocFile]:
    """Returns the files that have an image; refuses or reports the others.

    Args:
      files: files of a split.
      skip_missing: if true, files without an image are left out, and named in the log.
      split_name: name of the split, for messages.

    Raises:
      ValueError: a file has no image and ``skip_missing`` is false, or no file has one.
    """
    alone = [file.xml for file in files if file.image is None]
    if alone:
        shown = printable_name(some_of(alone, 3))
        text = f"{len(alone)} of {len(files)} xml files: {shown}"
        if not skip_missing or len(alone) == len(files):
            raise ValueError(
                f"{split_name}: found no image for {text}; expected one of the same "
                "name (data.options.skip_missing leaves them out)"
            )
        LOG.warning("%s: no image for %s, left out", split_name, text)
    return [file for file in files if file.image is not None]
