"""Boxes of COCO, and of the tools that write its json (Lin et al. 2014)."""

import glob
import json
import logging
import pathlib
import posixpath
from collections.abc import Sequence

import numpy as np

from ..findings import note_same_files, some_of
from ..formats.coco_categories import (
    choose_classes,
    have_same_categories,
    warn_of_shared_names,
)
from ..formats.coco_json import CocoTable, read_coco_table
from ..formats.file_access import make_image_files, select_splits
from ..formats.image_paths import leaves_folder, make_finder_below, read_displayed_size
from ..formats.single_files import require_path
from ..formats.text import printable_name
from ..images.exif import turn_as_annotated
from ..images.object_checks import clean_objects
from ..images.objects import make_object_split
from ..split import Dataset, Split

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
    """Loads images with boxes as COCO stores them: a json and a folder for each split.

    Classes are the categories in order of their ids, which ``meta`` holds as
    ``category_ids``. If an image has an EXIF orientation, the size in the json tells
    whether the image is turned. File names are tried as they are, then with backslashes
    as slashes and ``%20`` decoded, then in another Unicode form; they are searched only
    below the folder. Files that occur under several ids, and annotations with the same
    image, class and box, are counted in the log.

    Args:
      path: folder that holds the jsons and the images.
      splits: names of the splits to load; all by default, or if one of them is missing.
      annotations: path of a json below ``path``, with ``{split}`` for the name of the
        split. Without ``{split}`` there is one split, "train".
      images: folder of the images below ``path``, with ``{split}`` likewise.
      crowd_objects: if true, annotations marked ``iscrowd`` are objects like others.
      drop_unused: if true, categories without an annotation are not classes.
      corners: if true, a box is left, top, right, bottom in the file, which deviates
        from the format.
      box_area: if true, areas are computed from the boxes, and those in the file
        ignored.
      skip_missing: if true, images without a file are left out; if false, they are
        refused.
      turn: if true, turn an image by its EXIF orientation if its size fits both ways.
      drop_doubles: if true, keep only the first of objects with the same image, class
        and box, which some exports hold twice.

    Raises:
      ValueError: a json is invalid, splits have different categories, an image has no
        file, or an option leads out of the folder.
      FileNotFoundError: there is no json.

    >>> import tempfile
    >>> image = {"id": 1, "file_name": "1.png", "height": 4, "width": 8}
    >>> box = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 4, 2], "area": 8}
    >>> table = {"images": [image], "annotations": [box]}
    >>> table["categories"] = [{"id": 3, "name": "cat"}]
    >>> files = {"annotations/instances_val.json": json.dumps(table), "val/1.png": ""}
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name, text in files.items():
    ...         file = pathlib.Path(root, name)
    ...         file.parent.mkdir()
    ...         _ = file.write_text(text)
    ...     load_coco(root).class_names
    ('cat',)
    """
    root = require_path(path)
    files = _files(root, annotations, splits)
    # A split has the name of its file, which may hold dots.
    folders = {
        name: root / _inside("images", images.replace("{split}", name))
        for name in files
    }
    tables = {
        name: read_coco_table(file, crowd_objects=crowd_objects, corners=corners)
        for name, file in files.items()
    }
    first = next(iter(tables.values()))
    for table in tables.values():
        if not have_same_categories(table, first):
            raise ValueError(
                f"{table.file}: found other categories than in {first.file}, expected "
                "one list of ids and names"
            )
    warn_of_shared_names(first)
    classes = choose_classes(tables, drop_unused)
    names = tuple(name for _, name in (first.categories[k] for k in classes))
    number = np.full(len(first.categories), -1)
    number[classes] = np.arange(len(classes))
    loaded = {}
    for name in list(tables):
        table = tables.pop(name)
        objects = table.annotations
        objects = objects._replace(classes=number[objects.classes])
        loaded[name] = _split(
            table._replace(annotations=objects),
            folders[name],
            skip_missing,
            turn=turn,
            box_area=box_area,
            drop_doubles=drop_doubles,
        )
    ids = [first.categories[k][0] for k in classes]
    return Dataset(loaded, names, {"category_ids": ids})


def _inside(option: str, path: str) -> str:
    """Returns a normalised path; refuses one that leads out of the folder."""
    path = posixpath.normpath(path)
    if leaves_folder(path):
        raise ValueError(
            f"data.options.{option}: found {path!r}, expected a path below data.path"
        )
    return path


def _files(
    root: pathlib.Path, pattern: str, splits: Sequence[str]
) -> dict[str, pathlib.Path]:
    """Returns the json of each split to load."""
    pattern = _inside("annotations", pattern)
    before, split, after = pattern.partition("{split}")
    if split:
        matches = sorted(root.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
        paths = [file.relative_to(root).as_posix() for file in matches]
        files = {
            path[len(before) : len(path) - len(after)]: file
            for path, file in zip(paths, matches, strict=True)
        }
    else:
        files = {"train": root / pattern}
    files = {
        name: file
        for name, file in files.items()
        if file.is_file() and not file.name.startswith("._")  # metadata of macOS
    }
    if not files:
        raise FileNotFoundError(
            f"{root}: found no {pattern.replace('{split}', '<split>')}, expected the "
            "json of COCO (data.options.annotations)"
        )
    return {name: files[name] for name in select_splits(list(files), splits)}


def _split(
    table: CocoTable,
    folder: pathlib.Path,
    skip_missing: bool,
    *,
    turn: bool,
    box_area: bool,
    drop_doubles: bool,
) -> Split:
    """Creates the split of one json."""
    paths = [*map(make_finder_below(folder), table.names)]
    exists = np.array([path is not None for path in paths])
    if not exists.all():
        _report_missing(table, folder, exists, skip_missing)
    rows = np.flatnonzero(exists)
    same_files = note_same_files(
        [paths[i] for i in rows], table.file, lambda i: f"image {table.ids[rows[i]]}"
    )
    read_image, name, stored = make_image_files(folder, [paths[i] or "" for i in rows])
    sides = table.sides[rows].copy()
    for i in np.flatnonzero(sides[:, 0] == 0).tolist():
        sides[i] = read_displayed_size(read_image(i))
    new_row = np.full(len(exists), -1)
    new_row[rows] = np.arange(len(rows))
    kept_annotations = np.flatnonzero(exists[table.annotations.image])
    annotations = table.annotations.select(kept_annotations)
    annotations = annotations._replace(image=new_row[annotations.image])
    numbers = [table.numbers[i] for i in kept_annotations]
    name_of = lambda i: f"annotation {numbers[i]}"
    objects, repeats = clean_objects(
        annotations,
        sides,
        table.file,
        name_of,
        box_area=box_area,
        drop_doubles=drop_doubles,
    )
    ids = [json.dumps(table.ids[i]).encode() for i in rows]
    upright = lambda i: turn_as_annotated(read_image(i), sides[i], turn)
    result = make_object_split(objects, sides, ids, table.file, upright, name)
    return result._replace(stored=stored, findings=(*same_files, *repeats))


def _report_missing(
    table: CocoTable, folder: pathlib.Path, exists: np.ndarray, skip_missing: bool
) -> None:
    """Refuses images without a file, or logs that they are left out."""
    missing = [n for n, ok in zip(table.names, exists, strict=True) if not ok]
    shown = printable_name(some_of(missing, 3))
    shown_folder = printable_name(str(folder))
    if not skip_missing or not exists.any():
        raise ValueError(
            f"{table.file}: found no file for {len(missing)} of {len(exists)} "
            f"images below {shown_folder}: {shown}; expected paths below it "
            "(data.options.images; data.options.skip_missing leaves them out)"
        )
    LOG.warning(
        "%s: no file for %d of %d images below %s, left out: %s",
        table.file,
        len(missing),
        len(exists),
        shown_folder,
        shown,
    )
