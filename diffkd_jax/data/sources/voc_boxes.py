"""Boxes of PASCAL VOC (Everingham et al. 2010), and of tools that write its xml."""

import json
import logging
import os
import pathlib
import posixpath
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..formats.image_paths import displayed_size, make_finder_below
from ..formats.single_files import require_path
from ..formats.text import make_name_finder, printable_name, unique_names
from ..formats.voc_lists import list_split_files, make_stem_finder, read_lists
from ..formats.voc_xml import MAX_BYTES, VocAnnotation, read_annotation
from ..images.decoding import IMAGE_ENDINGS
from ..images.exif import as_annotated
from ..images.objects import Read, collect, object_split
from ..split import Dataset, Doubt, Split, some_of
from ..suspects import note_same_files
from .folders import image_files, list_folders, read_file, select_splits
from .pairs import parse_class_names
from .voc import CLASSES

LOG = logging.getLogger(__name__)
LISTS = "ImageSets/Main"


class _File(NamedTuple):
    """An xml file and its picture, paths below the root; None for no picture."""

    xml: str
    picture: str | None
    entry: VocAnnotation


def load_voc_boxes(
    path: str,
    splits: Sequence[str] = (),
    *,
    classes: Any = "",
    from_zero: bool = False,
    crowd_objects: bool = False,
    skip_missing: bool = False,
    turn: bool = True,
    drop_doubles: bool = False,
) -> Dataset:
    """VOC as it is unpacked, or pictures and xml files beside each other.

    Unpacked: ``ImageSets/Main/<split>.txt``, ``Annotations``, ``JPEGImages``, 20
    classes. Else: folders ``<split>`` of ``NAME.xml`` with ``NAME.jpg``, or one such
    folder, which is the split "train"; the classes are the names that are found,
    sorted, unless they are given. Images have any of the endings of
    :data:`diffkd_jax.data.images.decoding.IMAGE_ENDINGS`, and the name of their xml
    file, or the one that its ``filename`` says. An image that a list names twice is
    taken once; an image that two xml files have, and objects that stand twice, are
    counted in the log.

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
      drop_doubles: whether of objects with the same image, class and box the first
        alone is kept, where an export holds them twice.

    Raises:
      ValueError: an xml that cannot be right, an unknown class, files without a
        picture, or no object where no classes are given.
      FileNotFoundError: no lists and no xml files.
    """
    root = require_path(path)
    lists = [f for f in list_split_files(root / LISTS) if not _of_a_class(f.stem)]
    given = classes != "" or (root / "classes.txt").is_file()
    names = parse_class_names(classes, root / "classes.txt") if given else ()
    found: dict[str, list[_File]] = {}
    doubts: dict[str, tuple[Doubt, ...]] = {}
    if lists:
        wanted = select_splits([file.stem for file in lists], splits)
        names = names or CLASSES[1:]
        listed, doubts = read_lists([file for file in lists if file.stem in wanted])
        xml = make_stem_finder(root / "Annotations", (".xml",))
        read = _reader(root, "JPEGImages")
        for split, stems in listed.items():
            found[split] = [
                read(f"Annotations/{(xml(stem) or [f'{stem}.xml'])[0]}", stem)
                for stem in stems
            ]
    else:
        folders = [name for name in list_folders(root) if _xml(root / name)]
        places = {name: name for name in folders} or {"train": ""}
        for split in select_splits(list(places), splits) if names else places:
            files, read = _xml(root / places[split]), _reader(root, places[split])
            found[split] = [read(os.path.join(places[split], f)) for f in files]
        if not any(found.values()):
            raise FileNotFoundError(
                f"{root}: found no {LISTS}/*.txt and no .xml files, expected either"
            )
        used = {name for fs in found.values() for f in fs for name in f.entry.names}
        if not names and not used:
            count = sum(map(len, found.values()))
            raise ValueError(
                f"{printable_name(str(root))}: found no object in {count} xml files, "
                "expected some, or names of classes for a set without objects "
                "(data.options.classes)"
            )
        names = names or parse_class_names(tuple(unique_names(used)))
        found = {split: found[split] for split in select_splits(list(found), splits)}
    options = {"from_zero": from_zero, "crowd_objects": crowd_objects, "turn": turn}
    options["drop_doubles"] = drop_doubles
    made = {
        name: _split(
            root, name, files, names, skip_missing, doubts.get(name, ()), **options
        )
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


def _reader(root: pathlib.Path, folder: str) -> Callable[..., _File]:
    """Returns a function that reads an xml file below the root and finds its image.

    An image has the name of its xml file, or else the one that ``filename`` says. Of
    several endings the one in ``filename`` comes first.
    """
    images = make_stem_finder(root / folder, IMAGE_ENDINGS)
    named = make_finder_below(root / folder)

    def read(xml: str, stem: str = "") -> _File:
        where = printable_name(os.path.join(root, xml))
        try:
            with open(root / xml, "rb") as stream:
                entry = read_annotation(stream.read(MAX_BYTES + 1), where)
        except OSError as error:
            fault = read_file(os.path.join(root, xml))[1]  # such as a link to nowhere
            raise ValueError(f"{where}: {fault or error}") from None
        there = images(stem or os.path.splitext(os.path.basename(xml))[0])
        file = there[0] if there else named(entry.filename) if entry.filename else None
        if len(there) > 1 and entry.filename:
            own = make_name_finder(there)(
                posixpath.basename(entry.filename.replace("\\", "/"))
            )
            file = own or file
        return _File(xml, None if file is None else os.path.join(folder, file), entry)

    return read


def _split(
    root: pathlib.Path,
    split: str,
    files: list[_File],
    names: Sequence[str],
    skip_missing: bool,
    doubts: tuple[Doubt, ...],
    *,
    from_zero: bool,
    crowd_objects: bool,
    turn: bool,
    drop_doubles: bool,
) -> Split:
    where = f"{printable_name(str(root))}: {split}"
    lost = [file.xml for file in files if file.picture is None]
    if lost:
        text = (
            f"{len(lost)} of {len(files)} xml files: {printable_name(some_of(lost, 3))}"
        )
        if not skip_missing or len(lost) == len(files):
            raise ValueError(
                f"{where}: found no picture for {text}; expected one of the same name "
                "(data.options.skip_missing leaves them out)"
            )
        LOG.warning("%s: no picture for %s, left out", where, text)
    files = [file for file in files if file.picture is not None]
    same = note_same_files(
        [file.picture for file in files], where, lambda i: printable_name(files[i].xml)
    )
    class_of = make_name_finder(names)
    for file in files:
        if strange := [name for name in file.entry.names if class_of(name) is None]:
            raise ValueError(
                f"{printable_name(os.path.join(root, file.xml))}: found the class "
                f"{strange[0][:60]!r}, expected one of {some_of(names, 20)}"
            )
    number = {name: k for k, name in enumerate(names)}
    picture, name, stored = image_files(root, [file.picture or "" for file in files])
    sides = np.array([file.entry.size for file in files], np.int32).reshape(-1, 2)
    for i in np.flatnonzero(sides[:, 0] == 0).tolist():
        sides[i] = displayed_size(picture(i))
    each = [len(file.entry.names) for file in files]
    boxes = np.array([b for f in files for b in f.entry.boxes], float).reshape(-1, 4)
    if not from_zero:
        boxes[:, :2] = np.maximum(boxes[:, :2] - 1, 0)
    marked = np.array([d for f in files for d in f.entry.difficult], bool)
    read = Read(
        np.repeat(np.arange(len(files)), each),
        boxes,
        np.array(
            [number[class_of(n) or ""] for f in files for n in f.entry.names], np.int64
        ),
        marked & (not crowd_objects),
        None,
    )
    called = [
        f"{os.path.basename(file.xml)} object {k}, {name}"
        for file in files
        for k, name in enumerate(file.entry.names, 1)
    ]
    name_of = lambda i: printable_name(called[i])
    objects, twice = collect(read, sides, where, name_of, drop_doubles)
    stems = [os.path.splitext(os.path.basename(file.xml))[0] for file in files]
    ids = [json.dumps(printable_name(stem)).encode() for stem in stems]
    upright = lambda i: as_annotated(picture(i), sides[i], turn)
    split_of = object_split(objects, sides, ids, where, upright, name)
    return split_of._replace(stored=stored, doubts=(*doubts, *same, *twice))
