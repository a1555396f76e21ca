"""Data sets of picture files: folders, tar shards, TFDS array records.

Nothing is decoded here: a split gives the content of the files, so that a crop decodes
what it needs.
"""

import json
import os
import pathlib
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .decoding import PICTURES, Encoded
from .formats import existing
from .split import Dataset, Split, check_labels

SHARD = re.compile(r"(?:.*-)?([A-Za-z]+)-\d+\.tar")


def load_folder(path: str) -> Dataset:
    """Pictures in ``<split>/<class>/<file>``; classes are sorted by name.

    Files that do not end in one of :data:`PICTURES`, and hidden ones, are left out.
    """
    root = existing(path)
    classes: set[str] = set()
    found: dict[str, list[tuple[str, str]]] = {}
    for split in _folders(root):
        for name in _folders(root / split):
            classes.add(name)
            with os.scandir(root / split / name) as entries:
                files = sorted(
                    e.name for e in entries if e.is_file() and _is_picture(e.name)
                )
            pairs = [(os.path.join(split, name, file), name) for file in files]
            found.setdefault(split, []).extend(pairs)
    names = sorted(classes)
    number = {name: k for k, name in enumerate(names)}
    splits = {
        split: _file_split(root, [f for f, _ in pairs], [number[c] for _, c in pairs])
        for split, pairs in found.items()
        if pairs
    }
    if not splits:
        raise ValueError(
            f"{path}: found no pictures, expected <split>/<class>/<file>, such as "
            f"train/cat/1.jpeg, ending in one of {list(PICTURES)}"
        )
    return Dataset(splits, tuple(names))


def load_tar(path: str) -> Dataset:
    """Tar shards in the manner of WebDataset: ``<anything>-<split>-<number>.tar``.

    An example is a picture ``<key>.jpg`` (or another of :data:`PICTURES`) and its label
    beside it, ``<key>.cls`` with a number as text, or ``<key>.json`` with ``label``.
    The shards are indexed at start, by their headers, and read in any order.
    """
    root = existing(path)
    shards: dict[str, list[pathlib.Path]] = {}
    for file in sorted(root.glob("*.tar")):
        match = SHARD.fullmatch(file.name)
        if match is None:
            raise ValueError(
                f"{file}: found no split in its name, expected one such as "
                "train-000123.tar"
            )
        shards.setdefault(match[1], []).append(file)
    if not shards:
        raise ValueError(f"{path}: found no .tar files, expected train-000000.tar ...")
    splits, classes = {}, 0
    for name, files in shards.items():
        with ThreadPoolExecutor() as pool:
            parts = list(pool.map(_index, files))
        label = np.concatenate([part[0] for part in parts])
        place = np.concatenate([part[1] for part in parts])
        shard = np.repeat(np.arange(len(files)), [len(part[0]) for part in parts])
        classes = max(classes, int(label.max(initial=-1)) + 1)
        check_labels(label, classes, f"{path}: {name}")
        splits[name] = _tar_split([str(f) for f in files], shard, place, label)
    return Dataset(splits, tuple(str(k) for k in range(classes)))


def load_tfds(path: str, name: str) -> Dataset:
    """A prepared TFDS classification set, stored as array records; no TensorFlow.

    Args:
      path: TFDS data directory, or "" for its default.
      name: registered name such as ``imagenet2012`` or ``cifar100:3.0.2``.
    """
    import tensorflow_datasets as tfds  # slow to import, needed by this source alone

    try:
        builder = tfds.builder(name, data_dir=path or None)
        features = builder.info.features
        if features is None or not {"image", "label"} <= set(features):
            found = sorted(features or ())
            raise ValueError(f"found features {found}, expected image and label")
        classes = tuple(features["label"].names)
        # A grey picture must stay grey: TFDS decodes it, a file would become RGB.
        skip = features["image"].shape[-1] == 3
        decoders = {"image": tfds.decode.SkipDecoding()} if skip else None
        splits = {}
        for split in builder.info.splits:
            source = builder.as_data_source(split=split, decoders=decoders)
            where = f"tfds {name}: {split}"
            splits[split] = _record_split(source, len(classes), where)
    except (
        tfds.core.DatasetNotFoundError,
        NotImplementedError,
        AssertionError,
    ) as error:
        raise ValueError(
            f"tfds {name!r} in {path or 'the default directory'}: found no set "
            "prepared as array records, expected the result of download_and_prepare("
            f"file_format='array_record'): {error}"
        ) from None
    if not splits:
        raise ValueError(f"tfds {name!r} in {path}: found no splits, prepare it first")
    return Dataset(splits, classes)


def _folders(root: pathlib.Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and e.name[0] != ".")


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and name[0] != "."


def _file_split(
    root: pathlib.Path, files: Sequence[str], labels: Sequence[int]
) -> Split:
    # Two arrays, since workers get a copy: a list of a million paths would be slow.
    paths = np.array([os.fsencode(file) for file in files])
    label = np.array(labels, np.int32)

    def name(index):
        return os.path.join(root, os.fsdecode(paths[index]))

    def read(index):
        path = name(index)
        with open(path, "rb") as stream:
            return Encoded(stream.read(), path)

    def fetch(indices):
        return {"image": [read(i) for i in indices], "label": label[indices]}

    return Split(len(paths), fetch, name)


def _index(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[n]`` of a shard's examples, and where they lie, ``[n, 2]`` bytes."""
    places, labels = {}, {}
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                key, _, suffix = member.name.rpartition(".")
                if f".{suffix.lower()}" in PICTURES:
                    places[key] = (member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    content: Any = archive.extractfile(member)
                    value = json.loads(content.read())
                    labels[key] = int(value if suffix == "cls" else value["label"])
    except (
        tarfile.TarError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(f"{file}: not a shard of pictures: {error}") from None
    if unlabelled := [key for key in places if key not in labels]:
        raise ValueError(
            f"{file}: found no label of {unlabelled[0]}, expected {unlabelled[0]}.cls "
            "or .json beside it"
        )
    label = np.array([labels[key] for key in places], np.int32)
    return label, np.array(list(places.values()), np.int64).reshape(-1, 2)


def _tar_split(
    files: Sequence[str], shard: np.ndarray, place: np.ndarray, label: np.ndarray
) -> Split:
    def name(index):
        return f"{files[shard[index]]} at byte {place[index, 0]}"

    def read(index):
        with open(files[shard[index]], "rb") as stream:
            stream.seek(place[index, 0])
            return Encoded(stream.read(place[index, 1]), name(index))

    def fetch(indices):
        return {"image": [read(i) for i in indices], "label": label[indices]}

    return Split(len(label), fetch, name)


def _record_split(source, classes: int, where: str) -> Split:
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
            encoded = isinstance(image, bytes)
            images.append(Encoded(image, name(i, record)) if encoded else image)
            labels.append(record["label"])
        label = np.array(labels, np.int32)
        check_labels(label, classes, where)
        return {"image": images, "label": label}

    return Split(len(source), fetch, name)
