"""Data sets that TFDS prepared, read as array records without TensorFlow."""

import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..array_splits import check_labels
from ..formats.file_access import select_splits
from ..formats.single_files import MAX_JSON_BYTES, require_path
from ..formats.text import read_text
from ..images.encoded import Encoded
from ..images.masks import EncodedMask
from ..split import Dataset, Split, Stored
from .cityscapes import CLASSES, ID_RULE, META
from .record_boxes import check_objects, has_objects, make_box_split

# The image and the mask in the records of Cityscapes.
CITYSCAPES_FEATURES: tuple[str, ...] = ("image_left", "segmentation_label")


def load_tfds(
    path: str,
    name: str,
    splits: Sequence[str] = (),
    *,
    drop_doubles: bool = False,
) -> Dataset:
    """Loads a TFDS data set that is prepared as array records, without TensorFlow.

    There are three kinds: classification; Cityscapes with its masks (``image_left`` and
    ``segmentation_label``, whose ids are mapped to the 19 classes); and data sets with
    ``objects`` that have ``bbox`` and ``label``, such as COCO and VOC. For the last
    kind, each record of the loaded splits is read once at the start.

    Args:
      path: data folder of TFDS, or "" for its default.
      name: registered name, such as ``imagenet2012`` or ``cifar100:3.0.2``.
      splits: names of the splits to load from a data set with objects; all by default,
        or if one of them is missing. Other kinds always load all splits.
      drop_doubles: if true, keep only the first of objects with the same image, class
        and box.

    Raises:
      ValueError: the data set has no splits, images are not uint8 with one or three
        channels, a label has no class names, masks are not files, or a file names
        classes outside TFDS.
      FileNotFoundError: the data set is not prepared.
    """
    import tensorflow_datasets as tfds  # slow to import, and used in this file only

    try:
        path = str(require_path(path or tfds.core.constants.DATA_DIR))
        _check_features_files(path, name)
        builder = tfds.builder(name, data_dir=path)
        full_name = f"tfds {name}"
        features = builder.info.features
        is_cityscapes = features is not None and set(CITYSCAPES_FEATURES) <= set(
            features
        )
        has_boxes = not is_cityscapes and has_objects(features)
        files: tuple[str, ...] = ("image",)
        if has_boxes:
            channels, classes = 3, check_objects(features, full_name)
        elif is_cityscapes:
            _check_cityscapes(features, full_name)
            channels, files, classes = 3, CITYSCAPES_FEATURES, CLASSES
        else:
            channels, encoded, classes = _check_features(features, full_name)
            files = files if encoded else ()
        decoders = {name: tfds.decode.SkipDecoding() for name in files} or None
        loaded = {}
        available = list(builder.info.splits)
        for split in select_splits(available, splits) if has_boxes else available:
            source = builder.as_data_source(split=split, decoders=decoders)
            split_name = f"{full_name}: {split}"
            if has_boxes:
                loaded[split] = make_box_split(
                    source, len(classes), split_name, drop_doubles
                )
            elif is_cityscapes:
                loaded[split] = _cityscapes_split(source, split_name)
            else:
                loaded[split] = _record_split(
                    source, channels, len(classes), split_name
                )
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
    if not loaded:
        raise ValueError(f"tfds {name!r} in {path}: found no splits, prepare it first")
    return Dataset(loaded, classes, META if is_cityscapes else {})


def _check_features_files(path: str, name: str) -> None:
    """Refuses files that name classes outside TFDS, since TFDS would import them."""
    folder = pathlib.Path(path) / re.split("[:/]", name)[0]
    for file in folder.rglob("features.json"):
        try:
            class_names = _class_names(json.loads(read_text(file, MAX_JSON_BYTES)))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not a JSON of features: {error}") from None
        if foreign := [
            n for n in class_names if not n.startswith("tensorflow_datasets.")
        ]:
            raise ValueError(
                f"{file}: found the class {foreign[0]!r}, expected those of "
                "tensorflow_datasets alone"
            )


def _class_names(node: Any) -> Iterator[str]:
    """Yields each class name in the description of features."""
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
    """Returns the images' channels, whether they are files, and the class names."""
    import tensorflow_datasets as tfds

    if features is None or not {"image", "label"} <= set(features):
        names = sorted(features or ())
        raise ValueError(f"{where}: found features {names}, expected image and label")
    image, label = features["image"], features["label"]
    if not isinstance(image, tfds.features.Image | tfds.features.Tensor):
        raise ValueError(
            f"{where}: found images of {type(image).__name__}, expected an Image or "
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
            f"{where}: found images {dtype} {shape}, expected uint8 [h, w, 1] or "
            "[h, w, 3], levels 0 to 255"
        )
    if not isinstance(label, tfds.features.ClassLabel) or not label.num_classes:
        raise ValueError(
            f"{where}: found a label of {type(label).__name__}, expected a ClassLabel "
            "with the names of the classes"
        )
    return shape[-1] or 3, is_file, tuple(label.names)


def _record_split(source: Any, channels: int, classes: int, where: str) -> Split:
    """Creates a split of images with one label each."""

    def read_records(indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        records: Iterator[dict[str, Any]]
        records = source.__getitems__([int(i) for i in indices])
        return records

    def name(index: int, record: dict[str, Any] | None = None) -> str:
        record = record or next(iter(read_records([index])))
        file = record.get("file_name", f"example {index}")
        return f"{where}: {file.decode() if isinstance(file, bytes) else file}"

    def fetch(indices: np.ndarray) -> dict[str, Any]:
        images, labels = [], []
        for i, record in zip(indices, read_records(indices), strict=True):
            image = record["image"]
            if isinstance(image, bytes):
                image = Encoded(image, name(i, record), channels)
            images.append(image)
            labels.append(record["label"])
        label = np.array(labels, np.int32)
        check_labels(label, classes, where)
        return {"image": images, "target": {"label": label}}

    def read_bytes(index: int) -> bytes:
        image = source[int(index)]["image"]
        return image if isinstance(image, bytes) else np.asarray(image).tobytes()

    return Split(len(source), fetch, name, stored=Stored(read_bytes))


def _check_cityscapes(features: Any, where: str) -> None:
    """Refuses images and masks of Cityscapes that are not stored as expected."""
    import tensorflow_datasets as tfds

    for name, channels in zip(CITYSCAPES_FEATURES, (3, 1), strict=True):
        feature = features[name]
        if (
            not isinstance(feature, tfds.features.Image)
            or feature.shape[-1] != channels
            or np.dtype(feature.np_dtype) != np.uint8
        ):
            raise ValueError(
                f"{where}: found {name} of {type(feature).__name__} {feature.shape}, "
                f"expected an Image uint8 [h, w, {channels}]"
            )


def _cityscapes_split(source: Any, where: str) -> Split:
    """Creates a split of images and masks of Cityscapes."""

    def name_record(record: dict[str, Any], index: int) -> str:
        image_id = record.get("image_id", f"example {index}")
        text = image_id.decode() if isinstance(image_id, bytes) else image_id
        return f"{where}: {text}"

    def name(index: int) -> str:
        return name_record(source[int(index)], index)

    def fetch(indices: np.ndarray) -> dict[str, Any]:
        images, masks = [], []
        rows = [int(i) for i in indices]
        for i, record in zip(rows, source.__getitems__(rows), strict=True):
            image, mask = (record[feature] for feature in CITYSCAPES_FEATURES)
            text = name_record(record, i)
            images.append(Encoded(image, text))
            masks.append(
                EncodedMask(mask, f"{text} ({CITYSCAPES_FEATURES[1]})", ID_RULE)
            )
        return {"image": images, "target": {"label": masks}}

    stored = Stored(lambda index: source[int(index)][CITYSCAPES_FEATURES[0]])
    return Split(len(source), fetch, name, stored=stored)
