"""Boxes in data sets that TFDS prepared, such as ``coco/2017`` and ``voc/2012``."""

import contextlib
import json
import logging
import time
from typing import Any

import numpy as np

from ..array_splits import check_labels
from ..findings import find_repeats, note_finding
from ..images.encoded import Encoded, UnreadableImage
from ..images.headers import read_size
from ..images.object_checks import MAX_NUMBER, clean_objects
from ..images.objects import Objects, make_object_split
from ..split import Split, Stored

LOG = logging.getLogger(__name__)
MARKS = ("is_crowd", "is_difficult")  # features that mark objects to ignore
NAME_FEATURES = ("image/filename", "image/id")


def has_objects(features: Any) -> bool:
    """Returns whether a data set has images with a sequence of objects.

    Args:
      features: features of a TFDS data set, or None.

    >>> [has_objects(features) for features in ({"image", "objects"}, {"image"}, None)]
    [True, False, False]
    """
    return features is not None and {"image", "objects"} <= set(features)


def check_objects(features: Any, where: str) -> tuple[str, ...]:
    """Returns the names of the classes of a data set with objects, after checking it.

    Args:
      features: features of a TFDS data set.
      where: name of the data set, for messages.

    Raises:
      ValueError: images are not files, or objects have no boxes, no classes, or classes
        without names.
    """
    import tensorflow_datasets as tfds

    image, objects = features["image"], features["objects"]
    if (
        not isinstance(image, tfds.features.Image)
        or image.shape[-1] not in (3, None)
        or np.dtype(image.np_dtype) != np.uint8
    ):
        raise ValueError(
            f"{where}: found images of {type(image).__name__}, expected an Image "
            "uint8 [h, w, 3]"
        )
    object_features = getattr(objects, "feature", None)
    box, label = (
        object_features[key]
        if object_features is not None and key in object_features
        else None
        for key in ("bbox", "label")
    )
    if not isinstance(box, tfds.features.BBoxFeature) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise ValueError(
            f"{where}: found objects without bbox or label, expected a BBoxFeature and "
            "a ClassLabel"
        )
    if not label.num_classes:
        raise ValueError(f"{where}: found a label without the names of its classes")
    return tuple(label.names)


def make_box_split(
    source: Any, classes: int, where: str, drop_doubles: bool = False
) -> Split:
    """Creates a split of images with objects; reads each record once, for its objects.

    Boxes in the records are top, left, bottom, right, as shares of the image's sides.

    Args:
      source: random access to records, in which images are encoded files.
      classes: number of classes.
      where: name of the split, for messages.
      drop_doubles: if true, keep only the first of objects with the same image, class
        and box.

    Raises:
      ValueError: there are no records, a box or an area is out of range, a class is out
        of range, or an ``image/id`` is neither a number nor text.

    >>> import cv2
    >>> image = cv2.imencode(".png", np.zeros((4, 8, 3), np.uint8))[1].tobytes()
    >>> objects = {"label": [1], "bbox": [[0.0, 0.0, 0.5, 1.0]]}
    >>> split = make_box_split([{"image": image, "objects": objects}], 2, "here")
    >>> split.fetch(np.array([0]))["target"]["boxes"].tolist()
    [[[0.0, 0.0, 8.0, 2.0]]]
    """
    count, started = len(source), time.monotonic()
    if not count:
        raise ValueError(f"{where}: found no records, expected some")
    LOG.info("%s: reading all %d records for their objects", where, count)
    sides = np.ones((count, 2), np.int32)
    ids, names, parts = [], [], []
    for i in range(count):
        record = source[i]
        names.append(_name_record(record, i, where))
        with contextlib.suppress(UnreadableImage):  # reported when it is decoded
            sides[i] = read_size(Encoded(record["image"], names[-1]))
        parts.append(_read_objects(record["objects"], i, sides[i]))
        ids.append(json.dumps(_id(record, i, where)).encode())
    annotations = Objects(*map(np.concatenate, zip(*parts, strict=True)))
    check_labels(annotations.classes.astype(np.int64), classes, where)
    name_object = lambda i: f"object {i} (of example {annotations.image[i]})"
    has_area = "area" in source[0]["objects"]
    numbers = {"bbox": annotations.boxes}
    if has_area:
        numbers["area"] = annotations.area[:, None]
    for key, values in numbers.items():
        wrong = np.flatnonzero(~(np.abs(values) <= MAX_NUMBER).all(1))
        if wrong.size:
            first = values[wrong[0]].tolist()
            raise ValueError(
                f"{where}: {name_object(wrong[0])}: found {key} {first} in pixels, "
                f"expected numbers from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
            )
    objects, findings = clean_objects(
        annotations,
        sides,
        where,
        name_object,
        box_area=not has_area,
        drop_doubles=drop_doubles,
    )
    seconds = time.monotonic() - started
    LOG.info(
        "%s: read %d records with %d objects in %.0f s",
        *(where, count, len(annotations.classes), seconds),
    )

    # An array, since each worker gets a copy. No record is read again for its name.
    encoded_names = np.array([name.encode() for name in names])

    def name(index: int) -> str:
        return bytes(encoded_names[index]).decode()

    def read_image(index: int) -> Encoded:
        return Encoded(source[index]["image"], name(index))

    has_ids = "image/id" in source[0] and not np.ndim(source[0]["image/id"])
    duplicates = list(find_repeats(ids)) if has_ids else []
    same_id = "records have the id of an earlier one"
    findings += note_finding(duplicates, count, same_id, where, names.__getitem__)
    result = make_object_split(objects, sides, ids, where, read_image, name)
    stored = Stored(lambda i: source[i]["image"])
    return result._replace(stored=stored, findings=findings)


def _read_objects(objects: Any, row: int, sides: np.ndarray) -> Objects:
    """Returns the objects of one record, whose image is ``row`` and has such sides."""
    label = np.asarray(objects["label"]).reshape(-1)
    boxes = np.asarray(objects["bbox"], np.float64).reshape(-1, 4) * np.tile(sides, 2)
    top, left, bottom, right = boxes.T
    marks = [np.asarray(objects[k], bool) for k in MARKS if k in objects]
    area = objects.get("area", np.zeros(len(label)))
    return Objects(
        np.full(len(label), row),
        np.stack([left, top, right, bottom], 1),
        label,
        np.any(marks, 0) if marks else np.zeros(len(label), bool),
        np.asarray(area, np.float64).reshape(-1),
    )


def _name_record(record: Any, index: int, where: str) -> str:
    """Returns the name of a record for messages."""
    for key in NAME_FEATURES:
        if key in record:
            return f"{where}: {_text(record[key])}"
    return f"{where}: example {index}"


def _id(record: Any, index: int, where: str) -> int | str:
    """Returns the id of a record's image: its ``image/id``, or its index."""
    value = record.get("image/id", index)
    if np.ndim(value):
        return index
    if isinstance(value, bytes | str):
        return _text(value)
    if not np.issubdtype(np.asarray(value).dtype, np.integer):
        raise ValueError(
            f"{where}: example {index}: image/id: found {value}, expected a whole "
            "number or text"
        )
    return int(value)


def _text(value: Any) -> str:
    """Returns bytes or another value as text."""
    is_bytes = isinstance(value, bytes)
    return value.decode("utf-8", "backslashreplace") if is_bytes else str(value)
