"""Boxes of PASCAL VOC (Everingham et al. 2010), and of tools that write its xml."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings import note_same_files, some_of
from ..formats.class_lists import parse_class_names
from ..formats.file_access import list_folders, make_image_files, select_splits
from ..formats.image_paths import read_displayed_size
from ..formats.single_files import require_path
from ..formats.text import make_name_finder, printable_name, unique_names
from ..formats.voc_files import (
    VocFile,
    keep_files_with_image,
    list_xml,
    make_voc_reader,
)
from ..formats.voc_lists import list_split_files, make_stem_finder, read_lists
from ..images.exif import turn_as_annotated
from ..images.object_checks import clean_objects
from ..images.objects import Objects, make_object_split
from ..split import Dataset, Finding, Split
from .voc import CLASSES

LISTS = "ImageSets/Main"


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
    """Loads VOC as it is unpacked, or images and xml files beside each other.

    Unpacked data hold ``ImageSets/Main/<split>.txt``, ``Annotations`` and
    ``JPEGImages``, and have the 20 classes of VOC. Other data hold folders ``<split>``
    of ``NAME.xml`` and ``NAME.jpg``, or the files of the one split "train"; their
    classes are the names of all objects, sorted. In both cases ``classes`` replaces
    these names.

    Images have any of the endings in
    :data:`diffkd_jax.data.images.headers.IMAGE_ENDINGS`. An image has the name of its
    xml file, or the one that the file states as ``filename``. An image that a list
    names twice is taken once. Images that belong to two xml files, and objects that
    occur twice, are counted in the log.

    Objects marked ``difficult`` are ignored. Pixels count from 1 in these files, and
    the last pixel is inside the box; therefore 1 is subtracted from the left and the
    top.

    Args:
      path: folder of the data set, such as ``VOCdevkit/VOC2012``.
      splits: names of the splits to load; all by default, or if one of them is missing.
      classes: names of the classes, as a tuple or separated by commas; by default the
        lines of ``<path>/classes.txt``, if this file exists.
      from_zero: if true, pixels count from 0, and nothing is subtracted.
      crowd_objects: if true, difficult objects are objects like others.
      skip_missing: if true, xml files without an image are left out; if false, they are
        refused.
      turn: if true, turn an image by its EXIF orientation if its size fits both ways.
      drop_doubles: if true, keep only the first of objects with the same image, class
        and box, which some exports hold twice.

    Raises:
      ValueError: an xml file is invalid, a class is unknown, a file has no image, or
        there is no object and no classes are given.
      FileNotFoundError: there are no lists and no xml files.

    >>> import tempfile
    >>> box = "<xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>2</ymax>"
    >>> cat = f"<object><name>cat</name><bndbox>{box}</bndbox></object>"
    >>> size = "<size><width>8</width><height>4</height></size>"
    >>> with tempfile.TemporaryDirectory() as root:
    ...     pathlib.Path(root, "1.jpg").touch()
    ...     xml = f"<annotation>{size}{cat}</annotation>"
    ...     _ = pathlib.Path(root, "1.xml").write_text(xml)
    ...     dataset = load_voc_boxes(root)
    >>> target = dataset.splits["train"].fetch(np.array([0]))["target"]
    >>> dataset.class_names, target["boxes"].tolist()
    (('cat',), [[[0.0, 0.0, 4.0, 2.0]]])
    """
    root = require_path(path)
    lists = [f for f in list_split_files(root / LISTS) if not _is_class_list(f.stem)]
    has_names = classes != "" or (root / "classes.txt").is_file()
    names = parse_class_names(classes, root / "classes.txt") if has_names else ()
    findings: dict[str, tuple[Finding, ...]] = {}
    if lists:
        names = names or CLASSES[1:]
        files_by_split, findings = _read_listed(root, lists, splits)
    else:
        files_by_split, names = _read_folders(root, splits, names)
    options = {"from_zero": from_zero, "crowd_objects": crowd_objects, "turn": turn}
    options["drop_doubles"] = drop_doubles
    loaded = {
        name: _split(
            root, name, files, names, skip_missing, findings.get(name, ()), **options
        )
        for name, files in files_by_split.items()
    }
    return Dataset(loaded, names)


def _read_listed(
    root: pathlib.Path, lists: Sequence[pathlib.Path], splits: Sequence[str]
) -> tuple[dict[str, list[VocFile]], dict[str, tuple[Finding, ...]]]:
    """Reads the xml files that lists name, by split, and findings about the lists."""
    wanted = select_splits([file.stem for file in lists], splits)
    listed, findings = read_lists([file for file in lists if file.stem in wanted])
    find_xml = make_stem_finder(root / "Annotations", (".xml",))
    read = make_voc_reader(root, "JPEGImages")
    files_by_split = {
        split: [
            read(f"Annotations/{(find_xml(stem) or [f'{stem}.xml'])[0]}", stem)
            for stem in stems
        ]
        for split, stems in listed.items()
    }
    return files_by_split, findings


def _read_folders(
    root: pathlib.Path, splits: Sequence[str], names: tuple[str, ...]
) -> tuple[dict[str, list[VocFile]], tuple[str, ...]]:
    """Reads the xml files of one folder for each split, and the names of the classes.

    If no names are given, they are those of the objects of all splits.
    """
    with_xml = [name for name in list_folders(root) if list_xml(root / name)]
    folders = {name: name for name in with_xml} or {"train": ""}
    files_by_split: dict[str, list[VocFile]] = {}
    for split in select_splits(list(folders), splits) if names else folders:
        read = make_voc_reader(root, folders[split])
        files_by_split[split] = [
            read(os.path.join(folders[split], file))
            for file in list_xml(root / folders[split])
        ]
    if not any(files_by_split.values()):
        raise FileNotFoundError(
            f"{root}: found no {LISTS}/*.txt and no .xml files, expected either"
        )
    files = [file for part in files_by_split.values() for file in part]
    used_names = {name for file in files for name in file.entry.names}
    if not names and not used_names:
        raise ValueError(
            f"{printable_name(str(root))}: found no object in {len(files)} xml files, "
            "expected some, or names of classes for a set without objects "
            "(data.options.classes)"
        )
    names = names or parse_class_names(tuple(unique_names(used_names)))
    wanted = select_splits(list(files_by_split), splits)
    return {split: files_by_split[split] for split in wanted}, names


def _is_class_list(stem: str) -> bool:
    """Returns whether a list is that of a single class, such as ``cat_train.txt``."""
    return stem.rpartition("_")[0] in CLASSES


def _split(
    root: pathlib.Path,
    split: str,
    files: list[VocFile],
    names: Sequence[str],
    skip_missing: bool,
    findings: tuple[Finding, ...],
    *,
    from_zero: bool,
    crowd_objects: bool,
    turn: bool,
    drop_doubles: bool,
) -> Split:
    """Creates a split of the files of one list or folder."""
    split_name = f"{printable_name(str(root))}: {split}"
    files = keep_files_with_image(files, skip_missing, split_name)
    same_files = note_same_files(
        [file.image for file in files],
        split_name,
        lambda i: printable_name(files[i].xml),
    )
    annotations = _gather_annotations(
        root, files, names, from_zero=from_zero, crowd_objects=crowd_objects
    )
    read_image, name, stored = make_image_files(
        root, [file.image or "" for file in files]
    )
    sides = np.array([file.entry.size for file in files], np.int32).reshape(-1, 2)
    for i in np.flatnonzero(sides[:, 0] == 0).tolist():
        sides[i] = read_displayed_size(read_image(i))
    object_names = [
        f"{os.path.basename(file.xml)} object {k}, {name}"
        for file in files
        for k, name in enumerate(file.entry.names, 1)
    ]
    name_of = lambda i: printable_name(object_names[i])
    objects, repeats = clean_objects(
        annotations,
        sides,
        split_name,
        name_of,
        box_area=True,
        drop_doubles=drop_doubles,
    )
    stems = [os.path.splitext(os.path.basename(file.xml))[0] for file in files]
    ids = [json.dumps(printable_name(stem)).encode() for stem in stems]
    upright = lambda i: turn_as_annotated(read_image(i), sides[i], turn)
    result = make_object_split(objects, sides, ids, split_name, upright, name)
    return result._replace(stored=stored, findings=(*findings, *same_files, *repeats))


def _gather_annotations(
    root: pathlib.Path,
    files: list[VocFile],
    names: Sequence[str],
    *,
    from_zero: bool,
    crowd_objects: bool,
) -> Objects:
    """Returns the objects of all files, without areas; refuses unknown classes."""
    find_class = make_name_finder(names)
    for file in files:
        if unknown := [name for name in file.entry.names if find_class(name) is None]:
            raise ValueError(
                f"{printable_name(os.path.join(root, file.xml))}: found the class "
                f"{unknown[0][:60]!r}, expected one of {some_of(names, 20)}"
            )
    number = {name: k for k, name in enumerate(names)}
    counts = [len(file.entry.names) for file in files]
    boxes = np.array([b for f in files for b in f.entry.boxes], float).reshape(-1, 4)
    if not from_zero:
        boxes[:, :2] = np.maximum(boxes[:, :2] - 1, 0)
    difficult = np.array([d for f in files for d in f.entry.difficult], bool)
    return Objects(
        np.repeat(np.arange(len(files)), counts),
        boxes,
        np.array(
            [number[find_class(n) or ""] for f in files for n in f.entry.names],
            np.int64,
        ),
        difficult & (not crowd_objects),
        np.zeros(len(boxes)),
    )
