"""Entries of COCO's json: images, categories and annotations, checked one by one."""

import collections
import logging
from typing import Any

import numpy as np

from ..findings import some_of
from ..images.object_checks import MAX_NUMBER, warn_of_annotations
from ..images.objects import Objects
from ..split import MAX_CLASSES
from .text import parse_whole_number

LOG = logging.getLogger(__name__)
MAX_SIDE = 1_000_000  # pixels
NUMBERS = f"numbers from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
Id = int | str


def _is_id(value: Any) -> bool:
    """Returns whether a value can be an id."""
    return type(value) in (int, str)


def _as_id(value: Any) -> Any:
    """Returns a value as an id: a float that is a whole number becomes an integer."""
    return (
        parse_whole_number(value)
        if isinstance(value, float) and value.is_integer()
        else value
    )


def _key(value: Id) -> Id:
    """Returns an id in the form in which ids are compared: the text "3.0" as "3"."""
    if isinstance(value, str) and "." in value:
        number = parse_whole_number(value)
        return value if number is None else str(number)
    return value


def read_images(
    rows: list[dict[str, Any]], where: str
) -> tuple[list[str], list[Id], np.ndarray]:
    """Reads file names, ids and sizes of the images.

    Args:
      rows: the entries ``images`` of a file.
      where: path of the file, for messages.

    Returns:
      Names; ids; and int32 ``[n, 2]``, height and width in pixels, or 0 if they are not
      stated.

    Raises:
      ValueError: there are no images, an entry is invalid, or two have one id.
    """
    names: list[str] = []
    ids: list[Id] = []
    sides = np.zeros((len(rows), 2), np.int32)
    for i, row in enumerate(rows):
        image_id: Any = _as_id(row.get("id"))
        name = row.get("file_name")
        label = f"{where}: image {image_id if _is_id(image_id) else f'at place {i}'}"
        if not _is_id(image_id):
            raise ValueError(
                f"{label}: found id {_short(image_id)}, expected a number or text"
            )
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"{label}: found file_name {_short(name)}, expected a path"
            )
        for j, key in enumerate(("height", "width")):
            side = parse_whole_number(row.get(key) or 0)
            if side is None or not 0 <= side <= MAX_SIDE:
                shown = _short(row[key])
                raise ValueError(
                    f"{label}: found {key} {shown}, expected 1 to {MAX_SIDE}"
                )
            sides[i, j] = side
        names.append(name)
        ids.append(image_id)
    if twice := _twice([*map(_key, ids)]):
        raise ValueError(f"{where}: found image {_short(twice[0])} twice")
    if not rows:
        raise ValueError(f"{where}: found no images, expected some")
    sides[(sides == 0).any(1)] = 0
    return names, ids, sides


def read_categories(rows: list[dict[str, Any]], where: str) -> list[tuple[Id, str]]:
    """Reads ids and names of the categories, sorted by id.

    Args:
      rows: the entries ``categories`` of a file.
      where: path of the file, for messages.

    Raises:
      ValueError: there are no categories, an entry is invalid, or two have one id.
    """
    categories: list[tuple[Id, str]] = []
    for row in rows:
        category_id: Any = _as_id(row.get("id"))
        name = row.get("name")
        if not _is_id(category_id) or not isinstance(name, str):
            raise ValueError(
                f"{where}: categories: found id {_short(category_id)} and name "
                f"{_short(name)}, expected a number or text, and text"
            )
        categories.append((category_id, name))
    if not 0 < len(categories) <= MAX_CLASSES:
        raise ValueError(
            f"{where}: found {len(categories)} categories, expected 1 to {MAX_CLASSES}"
        )
    if twice := _twice([_key(category_id) for category_id, _ in categories]):
        raise ValueError(f"{where}: found category {_short(twice[0])} twice")
    return sorted(categories, key=lambda one: (isinstance(one[0], str), one[0]))


def read_annotations(
    rows: list[dict[str, Any]],
    ids: list[Id],
    categories: list[tuple[Id, str]],
    where: str,
) -> tuple[Objects, list[Any]]:
    """Reads boxes, classes, marks and areas of all annotations, and their ids.

    Annotations of images that are not listed are left out, and named in the log.

    Args:
      rows: the entries ``annotations`` of a file.
      ids: ids of the images.
      categories: ``(id, name)`` of each category.
      where: path of the file, for messages.

    Returns:
      The annotations, with boxes as in the file; and the id of each, or its position in
      the file.

    Raises:
      ValueError: an entry is invalid, or no annotation is of a listed image.
    """
    row_of_image = {_key(image_id): i for i, image_id in enumerate(ids)}
    classes = {_key(image_id): k for k, (image_id, _) in enumerate(categories)}
    kinds = {type(image_id) for image_id in ids}
    numbers: list[Any] = []
    image_rows, kind, crowd, area, boxes = [], [], [], [], []
    orphans = []
    for i, row in enumerate(rows):
        number = _as_id(row.get("id"))
        number = number if _is_id(number) else f"at place {i}"
        label = f"{where}: annotation {str(number)[:40]}"
        image_id = _as_id(row.get("image_id"))
        if type(image_id) not in kinds:
            texts = "strings" if kinds == {str} else "numbers"
            raise ValueError(
                f"{label}: found image_id {_short(image_id)}, expected one of the "
                f"images' ids, which are {texts} such as {_short(ids[0])}"
            )
        if (image_id := _key(image_id)) not in row_of_image:
            orphans.append(number)
            continue
        group = _as_id(row.get("category_id"))
        if not _is_id(group) or (group := _key(group)) not in classes:
            raise ValueError(
                f"{label}: found category_id {_short(group)}, expected one of "
                f"{some_of((str(k) for k in classes), 8)}"
            )
        box, is_crowd, size = _read_values(row, label)
        numbers.append(number)
        image_rows.append(row_of_image[image_id])
        kind.append(classes[group])
        crowd.append(is_crowd)
        area.append(size)
        boxes.append(box)
    if orphans and not numbers:
        raise ValueError(
            f"{where}: found image_id of no image in all {len(orphans)} annotations, "
            "expected ids that images lists"
        )
    lost = np.arange(len(orphans))
    text = "annotations of images that are not listed, left out"
    warn_of_annotations(lost, text, where, lambda i: str(orphans[i]))
    if len(set(numbers)) < len(numbers):
        LOG.warning("%s: ids of annotations repeat; they are numbered anew", where)
    annotations = Objects(
        np.array(image_rows, np.int64),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(kind, np.int64),
        np.array(crowd, bool),
        np.array(area, np.float64),
    )
    return annotations, numbers


def _read_values(row: dict[str, Any], label: str) -> tuple[list[float], bool, float]:
    """Reads the box, the mark of a crowd and the area of an annotation."""
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{label}: found bbox {_short(box)}, expected four {NUMBERS}")
    mark = row.get("iscrowd") or 0
    mark = 1 if mark is True else parse_whole_number(mark)
    if mark not in (0, 1):
        shown = _short(row["iscrowd"])
        raise ValueError(f"{label}: found iscrowd {shown}, expected 0 or 1")
    area = row.get("area") or 0
    if not _is_number(area):
        raise ValueError(
            f"{label}: found area {_short(area)}, expected one of {NUMBERS}"
        )
    return [float(v) for v in box], bool(mark), float(area)


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number within the allowed range."""
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER


def _twice(values: list[Any]) -> list[Any]:
    """Returns the values that occur more than once."""
    return [v for v, count in collections.Counter(values).items() if count > 1]


def _short(value: Any) -> str:
    """Returns the beginning of a value, for messages."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
