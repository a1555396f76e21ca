"""Reader of COCO's json annotations, checked once and kept as a few arrays."""

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from ..images.encoded import describe_reason
from ..images.objects import Objects
from .coco_entries import Id, read_annotations, read_categories, read_images
from .text import decode_text, printable_name

MAX_BYTES = 2**31


class CocoTable(NamedTuple):
    """The content of one annotation file.

    Attributes:
      file: path of the file, for messages.
      names: file names of the images.
      ids: ids of the images, as in the file.
      sides: int32 ``[n, 2]``, height and width in pixels; 0 if the file does not state
        them.
      categories: ``(id, name)``, sorted by id.
      annotations: the objects, in the order of the file. Their classes are positions
        in ``categories``.
      numbers: ids of the annotations, or their positions in the file.
    """

    file: str
    names: list[str]
    ids: list[Id]
    sides: np.ndarray
    categories: list[tuple[Id, str]]
    annotations: Objects
    numbers: list[Any]


def read_coco_table(
    file: pathlib.Path, *, crowd_objects: bool, corners: bool
) -> CocoTable:
    """Reads a file of COCO's annotations; ``segmentation`` is never kept.

    Images, classes and annotations are numbered from 0. Annotations marked with
    ``iscrowd`` are ignored in training and evaluation; a missing mark means 0.

    Args:
      file: path of the file.
      crowd_objects: if true, crowds are objects like others.
      corners: if true, a box is left, top, right, bottom; if false, it is left, top,
        width, height.

    Raises:
      ValueError: the file is not such a json, ids are invalid or not listed, boxes are
        not four numbers, or boxes seem to be corners; the message is one line that
        names the file.
    """
    file_name = printable_name(str(file))
    data = _read_json(file, file_name)
    entries = {}
    for key in ("images", "annotations", "categories"):
        rows = data.get(key)
        if not isinstance(rows, list) or not all(isinstance(x, dict) for x in rows):
            kind = f"a {type(rows).__name__}" if key in data else "none"
            raise ValueError(
                f"{file_name}: {key}: found {kind}, expected a list of objects"
            )
        entries[key] = rows
    names, ids, sides = read_images(entries["images"], file_name)
    categories = read_categories(entries["categories"], file_name)
    annotations, numbers = read_annotations(
        entries["annotations"], ids, categories, file_name
    )
    table = CocoTable(file_name, names, ids, sides, categories, annotations, numbers)
    boxes = annotations.boxes
    if not corners:
        _check_corners(table)
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    ignored = annotations.ignored & (not crowd_objects)
    return table._replace(
        annotations=annotations._replace(boxes=boxes, ignored=ignored)
    )


def _read_json(file: pathlib.Path, where: str) -> dict[str, Any]:
    """Reads the json without polygons."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{where}: found {size} bytes, expected at most {MAX_BYTES}")
    text = decode_text(file.read_bytes(), where)
    try:
        # Polygons are most of such a file: they go as soon as they are read.
        data = json.loads(text, object_hook=_without_masks)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: not a json of COCO: {describe_reason(error)}"
        ) from None
    if not isinstance(data, dict):
        raise ValueError(
            f"{where}: found a {type(data).__name__}, expected an object with images, "
            "annotations and categories"
        )
    return data


def _without_masks(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops the polygons of an annotation."""
    entry.pop("segmentation", None)
    return entry


def _check_corners(table: CocoTable) -> None:
    """Refuses boxes that leave their images but would fit if they were corners."""
    first, second = np.hsplit(table.annotations.boxes, 2)
    limit = table.sides[table.annotations.image][:, ::-1]
    is_stated = (limit > 0).all(1)
    leave = is_stated & (first + second > limit + 1).any(1)
    fit = leave & (second > first).all(1) & (second <= limit + 1).all(1)
    if 2 * leave.sum() > is_stated.sum() and fit.sum() > 0.9 * leave.sum():
        raise ValueError(
            f"{table.file}: found {leave.sum()} of {is_stated.sum()} boxes that leave "
            f"their image, {fit.sum()} of which fit as left, top, right, bottom; "
            "expected left, top, width, height; set data.options.corners for corners"
        )
