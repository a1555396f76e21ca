"""Boxes of PASCAL VOC (Everingham et al. 2010), and of tools that write its xml."""

import json
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .decoding import PICTURES
from .files_below import place_below, size_as_shown
from .folders import needed, picture_files, printable, visible_folders
from .formats import existing
from .objects import Read, collect, object_split
from .pairs import class_list
from .split import Dataset, Split, some_of
from .upright import as_annotated
from .voc import CLASSES, names_in
from .voc_xml import MOST_BYTES, Entry, read_entry

LOG = logging.getLogger(__name__)
LISTS = "ImageSets/Main"


class _File(NamedTuple):
    """An xml file and its picture, paths below the root; None for no picture."""

    xml: str
    picture: str | None
    entry: Entry


def load_voc_boxes(
    path: str,
    splits: Sequence[str] = (),
    *,
    classes: Any = "",
    from_zero: bool = False,
    crowd_objects: bool = False,
    skip_missing: bool = False,
    turn: bool = True,
) -> Dataset:
    """VOC as it is unpacked, or pictures and xml files beside each other.

    Unpacked: ``ImageSets/Main/<split>.txt``, ``Annotations``, ``JPEGImages``, 20
    classes. Else: folders ``<split>`` of ``NAME.xml`` with ``NAME.jpg`` (or what
    ``filename`` says), or one such folder, which is the split "train"; the classes are
    the names that are found, sorted, unless they are given.

    Objects marked ``difficult`` are ignored. Pixels count from 1 in these files, and
    the last one is inside: one is subtracted from the left and the top.

    Args:
      path: such as ``VOCdevkit/VOC2012``.
      splits: those that are needed, all by default.
      classes: their names, as a tuple or with commas between; else the lines of
        ``<path>/classes.txt``.
      from_zero: whether pixels count from 0, nothing is subtracted then.
      crowd_objects: whether difficult objects are objects like others.
      skip_missing: whether xml files without a picture are left out, not refused.
      turn: whether a picture is turned as its EXIF orientation says where its size fits
        both ways.

    Raises:
      ValueError: an xml that cannot be right, an unknown class, files without a
        picture, or no object where no classes are given.
      FileNotFoundError: no lists and no xml files.
    """
    root = existing(path)
    lists = [f for f in sorted((root / LISTS).glob("*.txt")) if not _of_a_class(f.stem)]
    given = classes != "" or (root / "classes.txt").is_file()
    names = class_list(classes, root / "classes.txt") if given else ()
    found: dict[str, list[_File]] = {}
    if lists:
        wanted = needed([file.stem for file in lists], splits)
        names = names or CLASSES[1:]
        for file in (file for file in lists if file.stem in wanted):
            found[file.stem] = [
                _file(root, f"Annotations/{name}.xml", f"JPEGImages/{name}.jpg")
                for name in names_in(file)
            ]
    else:
        folders = [name for name in visible_folders(root) if _xml(root / name)]
        places = {name: name for name in folders} or {"train": ""}
        for split in needed(list(places), splits) if names else places:
            files = _xml(root / places[split])
            found[split] = [_file(root, os.path.join(places[split], f)) for f in files]
        if not any(found.values()):
            raise FileNotFoundError(
                f"{root}: found no {LISTS}/*.txt and no .xml files, expected either"
            )
        used = {name for fs in found.values() for f in fs for name in f.entry.names}
        if not names and not used:
            count = sum(map(len, found.values()))
            raise ValueError(
                f"{printable(str(root))}: found no object in {count} xml files, "
                "expected some, or names of classes for a set without objects "
                "(data.options.classes)"
            )
        names = names or class_list(tuple(sorted(used)))
        found = {split: found[split] for split in needed(list(found), splits)}
    options = {"from_zero": from_zero, "crowd_objects": crowd_objects, "turn": turn}
    made = {
        name: _split(root, name, files, names, skip_missing, **options)
        for name, files in found.items()
    }
    return Dataset(made, names)


def _of_a_class(stem: str) -> bool:
    """Whether a list says of each picture whether it has one class."""
    return stem.rpartition("_")[0] in CLASSES


def _xml(folder: pathlib.Path) -> list[str]:
    return sorted(
        name
        for name in os.listdir(folder)
        if name.lower().endswith(".xml") and name[0] != "."
    )


def _file(root: pathlib.Path, xml: str, picture: str = "") -> _File:
    where = printable(os.path.join(root, xml))
    try:
        with open(root / xml, "rb") as stream:
            entry = read_entry(stream.read(MOST_BYTES + 1), where)
    except OSError as error:
        raise ValueError(f"{where}: {error.strerror or error}") from None
    stem, folder = os.path.splitext(xml)[0], os.path.dirname(xml)
    tried = [picture] if picture else [f"{stem}{ending}" for ending in PICTURES]
    there = [name for name in tried if (root / name).is_file()]
    if not there and not picture and entry.filename:
        place = place_below(root / folder, entry.filename)
        there = [] if place is None else [os.path.join(folder, place)]
    return _File(xml, there[0] if there else None, entry)


def _split(
    root: pathlib.Path,
    split: str,
    files: list[_File],
    names: Sequence[str],
    skip_missing: bool,
    *,
    from_zero: bool,
    crowd_objects: bool,
    turn: bool,
) -> Split:
    where = f"{printable(str(root))}: {split}"
    lost = [file.xml for file in files if file.picture is None]
    if lost:
        text = f"{len(lost)} of {len(files)} xml files: {printable(some_of(lost, 3))}"
        if not skip_missing or len(lost) == len(files):
            raise ValueError(
                f"{where}: found no picture for {text}; expected one of the same name "
                "(data.options.skip_missing leaves them out)"
            )
        LOG.warning("%s: no picture for %s, left out", where, text)
    files = [file for file in files if file.picture is not None]
    number = {name: k for k, name in enumerate(names)}
    for file in files:
        if strange := [name for name in file.entry.names if name not in number]:
            raise ValueError(
                f"{printable(os.path.join(root, file.xml))}: found the class "
                f"{strange[0][:60]!r}, expected one of {some_of(names, 20)}"
            )
    picture, name = picture_files(root, [file.picture or "" for file in files])
    sides = np.array([file.entry.size for file in files], np.int32).reshape(-1, 2)
    for i in np.flatnonzero(sides[:, 0] == 0).tolist():
        sides[i] = size_as_shown(picture(i))
    each = [len(file.entry.names) for file in files]
    boxes = np.array([b for f in files for b in f.entry.boxes], float).reshape(-1, 4)
    if not from_zero:
        boxes[:, :2] = np.maximum(boxes[:, :2] - 1, 0)
    marked = np.array([d for f in files for d in f.entry.difficult], bool)
    read = Read(
        np.repeat(np.arange(len(files)), each),
        boxes,
        np.array([number[n] for f in files for n in f.entry.names], np.int64),
        marked & (not crowd_objects),
        None,
    )
    called = [
        f"{os.path.basename(file.xml)} object {k}, {name}"
        for file in files
        for k, name in enumerate(file.entry.names, 1)
    ]
    objects = collect(read, sides, where, lambda i: printable(called[i]))
    stems = [os.path.splitext(os.path.basename(file.xml))[0] for file in files]
    ids = [json.dumps(printable(stem)).encode() for stem in stems]
    upright = lambda i: as_annotated(picture(i), sides[i], turn)
    return object_split(objects, sides, ids, where, upright, name)
