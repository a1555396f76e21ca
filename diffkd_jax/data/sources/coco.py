"""Boxes of COCO, and of the tools that write its json (Lin et al. 2014)."""

import glob
import json
import logging
import pathlib
import posixpath
from collections.abc import Mapping, Sequence

import numpy as np

from ..formats.coco_json import CocoTable, read_coco_table
from ..formats.image_paths import displayed_size, leaves_folder, make_finder_below
from ..formats.single_files import require_path
from ..formats.text import are_same_names, normalise_name, printable_name
from ..images.exif import as_annotated
from ..images.objects import collect, object_split
from ..split import Dataset, Split, some_of
from ..suspects import note_same_files
from .folders import image_files, select_splits

LOG = logging.getLogger(__name__)


def load_coco(
    path: str,
    splits: Sequence[str] = (),
    *,
    annotations: str = "annotations/instances_{split}.json",
    images: str = "{split}",
    crowd_objects: bool = False,
    drop_unused: bool = False,
    corners: bool = False,
    box_area: bool = False,
    skip_missing: bool = False,
    turn: bool = True,
    drop_doubles: bool = False,
) -> Dataset:
    """Pictures with boxes as COCO has them: one json a split, and a folder of files.

    Classes are the categories in order of their ids, which ``meta`` keeps as
    ``category_ids``. Where a picture has an EXIF orientation, the size in the json
    says whether it is turned. File names are taken as they are, then with backslashes
    as slashes and ``%20`` as what it stands for, then in another Unicode form, always
    below the folder. A file under several ids, and annotations with the same picture,
    class and box, are counted in the log.

    Args:
      path: folder of both.
      splits: those that are needed, all by default.
      annotations: path of the json below it, ``{split}`` for the split's name; without
        that there is one split, "train".
      images: folder of the pictures below it, likewise.
      crowd_objects: whether what ``iscrowd`` marks are objects like others.
      drop_unused: whether categories without an annotation are no classes.
      corners: whether a box is left, top, right, bottom in the file, against the
        format.
      box_area: whether areas are those of the boxes, whatever the file says.
      skip_missing: whether pictures without a file are left out, not refused.
      turn: whether a picture is turned as its EXIF orientation says where its size fits
        both ways.
      drop_doubles: whether of objects with the same image, class and box the first
        alone is kept, where an export holds them twice.

    Raises:
      ValueError: a json that cannot be right, splits of other categories, pictures
        without a file, or an option that leads out of the folder.
      FileNotFoundError: no json.
    """
    root = require_path(path)
    files = _files(root, annotations, splits)
    # Names of splits are those of files: they may hold dots as well.
    folders = {
        name: root / _below("images", images.replace("{split}", name)) for name in files
    }
    tables = {
        name: read_coco_table(
            file, crowd_objects=crowd_objects, corners=corners, box_area=box_area
        )
        for name, file in files.items()
    }
    first = next(iter(tables.values()))
    for table in tables.values():
        if not _same_categories(table, first):
            raise ValueError(
                f"{table.file}: found other categories than in {first.file}, expected "
                "one list of ids and names"
            )
    _name_twins(first)
    classes = _classes(tables, drop_unused)
    names = tuple(name for _, name in (first.categories[k] for k in classes))
    number = np.full(len(first.categories), -1)
    number[classes] = np.arange(len(classes))
    made = {}
    for name in list(tables):
        table = tables.pop(name)
        found = table.found._replace(classes=number[table.found.classes])
        table = table._replace(found=found)
        options = {"turn": turn, "drop_doubles": drop_doubles}
        made[name] = _split(table, folders[name], skip_missing, **options)
    ids = [first.categories[k][0] for k in classes]
    return Dataset(made, names, {"category_ids": ids})


def _below(option: str, path: str) -> str:
    """A path without detours; ValueError, naming the option, for one that leads out."""
    path = posixpath.normpath(path)
    if leaves_folder(path):
        raise ValueError(
            f"data.options.{option}: found {path!r}, expected a path below data.path"
        )
    return path


def _files(
    root: pathlib.Path, pattern: str, splits: Sequence[str]
) -> dict[str, pathlib.Path]:
    """The json of each split that is needed."""
    pattern = _below("annotations", pattern)
    before, split, after = pattern.partition("{split}")
    if split:
        found = sorted(root.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
        paths = [file.relative_to(root).as_posix() for file in found]
        there = {
            path[len(before) : len(path) - len(after)]: file
            for path, file in zip(paths, found, strict=True)
        }
    else:
        there = {"train": root / pattern}
    there = {
        name: file
        for name, file in there.items()
        if file.is_file() and not file.name.startswith("._")  # of a Mac
    }
    if not there:
        raise FileNotFoundError(
            f"{root}: found no {pattern.replace('{split}', '<split>')}, expected the "
            "json of COCO (data.options.annotations)"
        )
    return {name: there[name] for name in select_splits(list(there), splits)}


def _same_categories(first: CocoTable, second: CocoTable) -> bool:
    ids, names = zip(*first.categories, strict=True)
    other_ids, other_names = zip(*second.categories, strict=True)
    return ids == other_ids and are_same_names(names, other_names)


def _name_twins(table: CocoTable) -> None:
    """Says in the log which categories have one name."""
    ids: dict[str, list[str]] = {}
    for own, name in table.categories:
        ids.setdefault(normalise_name(name), []).append(str(own))
    twins = {name: found for name, found in ids.items() if len(found) > 1}
    if twins:
        LOG.warning(
            "%s: categories of one name, kept as classes of their own: %s",
            table.file,
            some_of(f"{n[:60]!r} (ids {some_of(found)})" for n, found in twins.items()),
        )


def _classes(tables: Mapping[str, CocoTable], drop_unused: bool) -> list[int]:
    """Places of the categories that are classes; the log names those of no object."""
    categories = next(iter(tables.values())).categories
    used = np.zeros(len(categories), bool)
    for table in tables.values():
        used[table.found.classes] = True
    unused = [categories[k] for k in np.flatnonzero(~used)]
    if unused:
        texts = some_of(f"{name} (id {own})" for own, name in unused)
        LOG.warning(
            "%s: %d of %d classes have no annotation%s: %s",
            ", ".join(table.file for table in tables.values()),
            len(unused),
            len(categories),
            ", left out" if drop_unused else "",
            texts,
        )
    if drop_unused and used.any():
        return np.flatnonzero(used).tolist()
    return list(range(len(categories)))


def _split(
    table: CocoTable,
    folder: pathlib.Path,
    skip_missing: bool,
    *,
    turn: bool,
    drop_doubles: bool,
) -> Split:
    found = [*map(make_finder_below(folder), table.names)]
    there = np.array([place is not None for place in found])
    if not there.all():
        texts = [n for n, ok in zip(table.names, there, strict=True) if not ok]
        text = printable_name(some_of(texts, 3))
        at = printable_name(str(folder))
        if not skip_missing or not there.any():
            raise ValueError(
                f"{table.file}: found no file for {len(texts)} of {len(there)} "
                f"pictures below {at}: {text}; expected paths below it "
                "(data.options.images; data.options.skip_missing leaves them out)"
            )
        LOG.warning(
            "%s: no file for %d of %d pictures below %s, left out: %s",
            table.file,
            len(texts),
            len(there),
            at,
            text,
        )
    where, rows = table.file, np.flatnonzero(there)
    same = note_same_files(
        [found[i] for i in rows], where, lambda i: f"picture {table.ids[rows[i]]}"
    )
    number = np.full(len(there), -1)
    number[rows] = np.arange(len(rows))
    file, name, stored = image_files(folder, [found[i] or "" for i in rows])
    sides = table.sides[rows].copy()
    for i in np.flatnonzero(sides[:, 0] == 0).tolist():
        sides[i] = displayed_size(file(i))
    kept = np.flatnonzero(there[table.found.picture])
    annotations = table.found.of(kept)
    annotations = annotations._replace(picture=number[annotations.picture])
    numbers = [table.numbers[i] for i in kept]
    objects, twice = collect(
        annotations, sides, where, lambda i: f"annotation {numbers[i]}", drop_doubles
    )
    ids = [json.dumps(table.ids[i]).encode() for i in rows]
    read = lambda i: as_annotated(file(i), sides[i], turn)
    made = object_split(objects, sides, ids, where, read, name)
    return made._replace(stored=stored, doubts=(*same, *twice))
