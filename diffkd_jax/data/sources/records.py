"""Sets that TFDS prepared, read as array records without TensorFlow."""

import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..formats.single_files import MAX_JSON_BYTES, require_path
from ..formats.text import read_text
from ..images.decoding import Encoded
from ..images.masks import EncodedMask
from ..split import Dataset, Split, Stored, check_labels
from .cityscapes import CLASSES, ID_RULE, META
from .folders import select_splits
from .record_boxes import box_split, check_objects, has_objects

# The features of Cityscapes.
CITYSCAPES_FEATURES: tuple[str, ...] = ("image_left", "segmentation_label")


def load_tfds(
    path: str,
    name: str,
    splits: Sequence[str] = (),
    *,
    drop_doubles: bool = False,
) -> Dataset:
    """A prepared TFDS set, stored as array records; no TensorFlow.

    One of classification, Cityscapes with its masks (``image_left`` and
    ``segmentation_label``, the ids of which become the 19 classes), or one with
    ``objects``, their ``bbox`` and ``label``, as those of COCO and VOC. Of the last
    kind every record that is needed is read once at start.

    Args:
      path: TFDS data directory, or "" for its default.
      name: registered name such as ``imagenet2012`` or ``cifar100:3.0.2``.
      splits: those that are needed of a set with objects, all by default.
      drop_doubles: whether of objects with the same image, class and box the first
        alone is kept.

    Raises:
      ValueError: nothing prepared; pictures that are not uint8 of one or three
        channels; a label without class names; masks that are no files.
    """
    import tensorflow_datasets as tfds  # slow to import, needed by this source alone

    try:
        path = str(require_path(path or tfds.core.constants.DATA_DIR))
        _check_features_files(path, name)
        builder = tfds.builder(name, data_dir=path)
        where = f"tfds {name}"
        features = builder.info.features
        masked = features is not None and set(CITYSCAPES_FEATURES) <= set(features)
        boxed = not masked and has_objects(features)
        files: tuple[str, ...] = ("image",)
        if boxed:
            channels, classes = 3, check_objects(features, where)
        elif masked:
            _check_streets(features, where)
            channels, files, classes = 3, CITYSCAPES_FEATURES, CLASSES
        else:
            channels, encoded, classes = _check_features(features, where)
            files = files if encoded else ()
        decoders = {name: tfds.decode.SkipDecoding() for name in files} or None
        made = {}
        there = list(builder.info.splits)
        for split in select_splits(there, splits) if boxed else there:
            source = builder.as_data_source(split=split, decoders=decoders)
            at = f"{where}: {split}"
            if boxed:
                made[split] = box_split(source, len(classes), at, drop_doubles)
            elif masked:
                made[split] = _street_split(source, at)
            else:
                made[split] = _record_split(source, channels, len(classes), at)
    except (
        tfds.core.DatasetNotFoundError,
        NotImplementedError,
        AssertionError,
    ) as error:
        raise FileNotFoundError(
            f"data.path: found no tfds set {name!r} in {path!r}, expected one prepared "
            "by download_and_prepare(file_format='array_record'): "
            f"{' '.join(str(error).split())}"
        ) from None
    if not made:
        raise ValueError(f"tfds {name!r} in {path}: found no splits, prepare it first")
    return Dataset(made, classes, META if masked else {})


def _check_features_files(path: str, name: str) -> None:
    """Refuses a set whose files name classes outside TFDS, which TFDS would import."""
    folder = pathlib.Path(path) / re.split("[:/]", name)[0]
    for file in folder.rglob("features.json"):
        try:
            named = _class_names(json.loads(read_text(file, MAX_JSON_BYTES)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not a JSON of features: {error}") from None
        if foreign := [n for n in named if not n.startswith("tensorflow_datasets.")]:
            raise ValueError(
                f"{file}: found the class {foreign[0]!r}, expected those of "
                "tensorflow_datasets alone"
            )


def _class_names(node: Any) -> Iterator[str]:
    """Every class name in the description of features."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("pythonClassName", "type") and isinstance(value, str):
                yield value
            else:
                yield from _class_names(value)
    elif isinstance(node, list):
        for value in node:
            yield from _class_names(value)


def _check_features(features: Any, where: str) -> tuple[int, bool, tuple[str, ...]]:
    """Channels of the pictures, whether they are files, and the class names."""
    import tensorflow_datasets as tfds

    if features is None or not {"image", "label"} <= set(features):
        found = sorted(features or ())
        raise ValueError(f"{where}: found features {found}, expected image and label")
    image, label = features["image"], features["label"]
    if not isinstance(image, tfds.features.Image | tfds.features.Tensor):
        raise ValueError(
            f"{where}: found pictures of {type(image).__name__}, expected an Image or "
            "a Tensor"
        )
    shape, dtype = image.shape, np.dtype(image.np_dtype)
    is_file = isinstance(image, tfds.features.Image)
    if (
        dtype != np.uint8
        or len(shape) != 3
        or shape[-1] not in ((1, 3, None) if is_file else (1, 3))
    ):
        raise ValueError(
            f"{where}: found pictures {dtype} {shape}, expected uint8 [h, w, 1] or "
            "[h, w, 3], levels 0 to 255"
        )
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise ValueError(
            f"{where}: found a label of {type(label).__name__}, expected a ClassLabel "
            "with the names of the classes"
        )
    return shape[-1] or 3, is_file, tuple(label.names)


def _record_split(source, channels: int, classes: int, where: str) -> Split:
    def records(indices) -> Iterator[dict]:
        return source.__getitems__([int(i) for i in indices])

    def name(index, record=None):
        record = record or next(iter(records([index])))
        file = record.get("file_name", f"example {index}")
        return f"{where}: {file.decode() if isinstance(file, bytes) else file}"

    def fetch(indices):
        images, labels = [], []
        for i, record in zip(indices, records(indices), strict=True):
            image = record["image"]
            if isinstance(image, bytes):
                image = Encoded(image, name(i, record), channels)
            images.append(image)
            labels.append(record["label"])
        label = np.array(labels, np.int32)
        check_labels(label, classes, where)
        return {"image": images, "target": {"label": label}}

    def stored(index):
        image = source[int(index)]["image"]
        return image if isinstance(image, bytes) else np.asarray(image).tobytes()

    return Split(len(source), fetch, name, stored=Stored(stored))


def _check_streets(features: Any, where: str) -> None:
    import tensorflow_datasets as tfds

    for name, channels in zip(CITYSCAPES_FEATURES, (3, 1), strict=True):
        found = features[name]
        if (
            not isinstance(found, tfds.features.Image)
            or found.shape[-1] != channels
            or np.dtype(found.np_dtype) != np.uint8
        ):
            raise ValueError(
                f"{where}: found {name} of {type(found).__name__} {found.shape}, "
                f"expected an Image uint8 [h, w, {channels}]"
            )


def _street_split(source, where: str) -> Split:
    def called(record, index):
        named = record.get("image_id", f"example {index}")
        return f"{where}: {named.decode() if isinstance(named, bytes) else named}"

    def name(index):
        return called(source[int(index)], index)

    def fetch(indices):
        images, masks = [], []
        rows = [int(i) for i in indices]
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            picture, mask = (record[feature] for feature in CITYSCAPES_FEATURES)
            text = called(record, i)
            images.append(Encoded(picture, text))
            masks.append(
                EncodedMask(mask, f"{text} ({CITYSCAPES_FEATURES[1]})", ID_RULE)
            )
        return {"image": images, "target": {"label": masks}}

    stored = Stored(lambda index: source[int(index)][CITYSCAPES_FEATURES[0]])
    return Split(len(source), fetch, name, stored=stored)
