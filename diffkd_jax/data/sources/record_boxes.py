"""Boxes in sets that TFDS prepared, such as ``coco/2017`` and ``voc/2012``."""

import contextlib
import json
import logging
import time
from typing import Any

import numpy as np

from ..images.decoding import Encoded, UnreadableImage, read_size
from ..images.objects import MAX_NUMBER, Read, collect, object_split
from ..split import Split, Stored, check_labels
from ..suspects import note_doubts, repeated

LOG = logging.getLogger(__name__)
MARKS = ("is_crowd", "is_difficult")  # of objects that are ignored
NAMES = ("image/filename", "image/id")


def has_objects(features: Any) -> bool:
    """Whether a set has pictures with a sequence of objects."""
    return features is not None and {"image", "objects"} <= set(features)


def check_objects(features: Any, where: str) -> tuple[str, ...]:
    """Names of the classes of a set with objects.

    Args:
      features: of TFDS.
      where: name of the set, for messages.

    Raises:
      ValueError: pictures that are no files, or objects without boxes and classes.
    """
    import tensorflow_datasets as tfds

    image, objects = features["image"], features["objects"]
    if (
        not isinstance(image, tfds.features.Image)
        or image.shape[-1] not in (3, None)
        or np.dtype(image.np_dtype) != np.uint8
    ):
        raise ValueError(
            f"{where}: found pictures of {type(image).__name__}, expected an Image "
            "uint8 [h, w, 3]"
        )
    inner = getattr(objects, "feature", None)
    box, label = (
        inner[key] if inner is not None and key in inner else None
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


def box_split(
    source: Any, classes: int, where: str, drop_doubles: bool = False
) -> Split:
    """A split of pictures with objects; every record is read once, for its objects.

    Boxes are there top, left, bottom, right as shares of the picture's sides.

    Args:
      source: random access to records, pictures being files.
      classes: how many there are.
      where: name of the split, for messages.
      drop_doubles: whether of objects that stand twice the first alone is kept.

    Raises:
      ValueError: no records, boxes or areas that no picture has, classes out of range,
        or an ``image/id`` that is neither a number nor text.
    """
    count, started = len(source), time.monotonic()
    if not count:
        raise ValueError(f"{where}: found no records, expected some")
    LOG.info("%s: reading all %d records for their objects", where, count)
    sides = np.ones((count, 2), np.int32)
    ids, names, each = [], [], []
    parts: dict[str, list[np.ndarray]] = {k: [] for k in ("bbox", "label", "ignored")}
    areas = []
    for i in range(count):
        record = source[i]
        objects = record["objects"]
        label = np.asarray(objects["label"]).reshape(-1)
        box = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
        marks = [np.asarray(objects[k], bool) for k in MARKS if k in objects]
        names.append(_name_record(record, i, where))
        with contextlib.suppress(UnreadableImage):  # named where it is used
            sides[i] = read_size(Encoded(record["image"], names[-1]))
        parts["bbox"].append(box * np.tile(sides[i], 2))
        parts["label"].append(label)
        parts["ignored"].append(
            np.any(marks, 0) if marks else np.zeros(len(label), bool)
        )
        given = objects.get("area", np.zeros(len(label)))
        areas.append(np.asarray(given, np.float64).reshape(-1))
        each.append(len(label))
        ids.append(json.dumps(_id(record, i, where)).encode())
    flat = {key: np.concatenate(values) for key, values in parts.items()}
    label = flat["label"]
    area = np.concatenate(areas) if "area" in source[0]["objects"] else None
    check_labels(label.astype(np.int64), classes, where)
    top, left, bottom, right = flat["bbox"].T
    boxes = np.stack([left, top, right, bottom], 1)
    picture_of = np.repeat(np.arange(count), each)
    text = lambda i: f"object {i} (of example {picture_of[i]})"
    given = {"bbox": boxes} if area is None else {"bbox": boxes, "area": area[:, None]}
    for key, values in given.items():
        wrong = np.flatnonzero(~(np.abs(values) <= MAX_NUMBER).all(1))
        if wrong.size:
            first = values[wrong[0]].tolist()
            raise ValueError(
                f"{where}: {text(wrong[0])}: found {key} {first} in pixels, expected "
                f"numbers from {-MAX_NUMBER:g} to {MAX_NUMBER:g}"
            )
    read = Read(picture_of, boxes, label, flat["ignored"], area)
    objects, doubts = collect(read, sides, where, text, drop_doubles)
    took = time.monotonic() - started
    LOG.info(
        "%s: read %d records with %d objects in %.0f s", where, count, len(label), took
    )

    # An array, since workers get a copy; no record is read again for its name.
    kept = np.array([name.encode() for name in names])

    def name(index):
        return kept[index].decode()

    def picture(index):
        return Encoded(source[index]["image"], name(index))

    given = "image/id" in source[0] and not np.ndim(source[0]["image/id"])
    again = list(repeated(ids)) if given else []
    same_id = "records have the id of an earlier one"
    doubts += note_doubts(again, count, same_id, where, names.__getitem__)
    made = object_split(objects, sides, ids, where, picture, name)
    stored = Stored(lambda i: source[i]["image"])
    return made._replace(stored=stored, doubts=doubts)


def _name_record(record: Any, index: int, where: str) -> str:
    """Names a record in a message."""
    for key in NAMES:
        if key in record:
            return f"{where}: {_text(record[key])}"
    return f"{where}: example {index}"


def _id(record: Any, index: int, where: str) -> int | str:
    own = record.get("image/id", index)
    if np.ndim(own):
        return index
    if isinstance(own, bytes | str):
        return _text(own)
    if not np.issubdtype(np.asarray(own).dtype, np.integer):
        raise ValueError(
            f"{where}: example {index}: image/id: found {own}, expected a whole number "
            "or text"
        )
    return int(own)


def _text(value: Any) -> str:
    is_bytes = isinstance(value, bytes)
    return value.decode("utf-8", "backslashreplace") if is_bytes else str(value)
