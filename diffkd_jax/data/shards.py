"""Tar shards of pictures, read in place."""

import json
import pathlib
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .decoding import PICTURES, Encoded, reason
from .formats import existing
from .split import MOST_CLASSES, Dataset, Split, check_labels

SHARD = re.compile(r"(?:.*-)?([A-Za-z]+)-\d+\.tar")
MOST_LABEL_BYTES = 2**20


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
        if not len(label):
            raise ValueError(f"{path}: {name}: found no pictures in its shards")
        classes = max(classes, int(label.max()) + 1)
        check_labels(label, classes, f"{path}: {name}")
        splits[name] = _tar_split([str(f) for f in files], shard, place, label)
    return Dataset(splits, tuple(str(k) for k in range(classes)))


def _index(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``[n]`` of a shard's examples, and where they lie, ``[n, 2]`` bytes."""
    places, labels = {}, {}
    end = file.stat().st_size
    try:
        # Not compressed as a whole: examples are read from where they lie.
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, _, suffix = member.name.rpartition(".")
                if not member.isreg():
                    continue
                if member.offset_data + member.size > end:
                    raise ValueError(f"{member.name!r} goes beyond the end of the file")
                if f".{suffix.lower()}" in PICTURES:
                    places[key] = (member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    labels[key] = _label(archive, member, suffix)
    except Exception as error:  # whatever a damaged archive makes of its reader
        raise ValueError(f"{file}: not a shard of pictures: {reason(error)}") from None
    if unlabelled := [key for key in places if key not in labels]:
        raise ValueError(
            f"{file}: found no label of {unlabelled[0]}, expected {unlabelled[0]}.cls "
            "or .json beside it"
        )
    label = np.array([labels[key] for key in places], np.int32)
    return label, np.array(list(places.values()), np.int64).reshape(-1, 2)


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> int:
    if member.size > MOST_LABEL_BYTES:
        raise ValueError(
            f"found {member.size} bytes in {member.name!r}, expected at most "
            f"{MOST_LABEL_BYTES}"
        )
    stream = archive.extractfile(member)
    content = stream.read() if stream else b""
    value = content.decode() if suffix == "cls" else json.loads(content)["label"]
    number = value
    # Text may have zeros in front, which JSON refuses.
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,20}\s*", value):
        number = int(value)
    if type(number) is not int or not 0 <= number < MOST_CLASSES:
        raise ValueError(
            f"found label {str(value)[:40]!r} in {member.name!r}, expected a number "
            f"from 0 to {MOST_CLASSES - 1}"
        )
    return number


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
        images = [read(i) for i in indices]
        return {"image": images, "target": {"label": label[indices]}}

    return Split(len(label), fetch, name, label)
