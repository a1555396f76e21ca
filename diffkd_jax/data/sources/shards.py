"""Tar shards of images, read in place."""

import itertools
import os
import pathlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..array_splits import check_labels
from ..findings import find_repeats, note_finding
from ..formats.single_files import require_path
from ..formats.tar_index import read_tar_index
from ..formats.text import printable_name
from ..images.encoded import Encoded
from ..split import Dataset, Finding, Split, Stored

SHARD = re.compile(r"(?:.*-)?([A-Za-z]+)-\d+\.(?i:tar)")
_MAX_COMPARED = 500  # images that share key and size with one of another shard


def load_tar(path: str) -> Dataset:
    """Loads shards in the layout of WebDataset, ``<anything>-<split>-<number>.tar``.

    An example is an image ``<key>.jpg`` (or another ending of
    :data:`diffkd_jax.data.images.headers.IMAGE_ENDINGS`) and its label, ``<key>.cls``
    with a number as text, or ``<key>.json`` with ``label``. The case of endings is
    ignored. Hidden members, and those that operating systems create, are left out as in
    folders. Labels without an image are counted in the log. The headers of all shards
    are read at the start; after that, examples are read in any order.

    Args:
      path: folder of the shards.

    Raises:
      ValueError: a shard is damaged, an image has no label, or a key occurs twice in
        one shard; the message names the shard and its member.

    >>> import io, tarfile, tempfile
    >>> with tempfile.TemporaryDirectory() as root:
    ...     with tarfile.open(f"{root}/train-0.tar", "w") as shard:
    ...         for name, data in (("1.png", b""), ("1.cls", b"2")):
    ...             member = tarfile.TarInfo(name)
    ...             member.size = len(data)
    ...             shard.addfile(member, io.BytesIO(data))
    ...     load_tar(root).splits["train"].label
    array([2], dtype=int32)
    """
    root = require_path(path)
    shards: dict[str, list[pathlib.Path]] = {}
    for file in sorted(root.iterdir() if root.is_dir() else ()):
        if file.name[0] == "." or file.suffix.lower() != ".tar":
            continue
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
            parts = list(pool.map(read_tar_index, files))
        label = np.concatenate([part.label for part in parts])
        position = np.concatenate([part.position for part in parts])
        shard = np.repeat(np.arange(len(files)), [len(part.label) for part in parts])
        if not len(label):
            raise ValueError(f"{path}: {name}: found no images in its shards")
        classes = max(classes, int(label.max()) + 1)
        check_labels(label, classes, f"{path}: {name}")
        paths = (
            os.path.join(file.name, name)
            for file, part in zip(files, parts, strict=True)
            for name in part.names
        )
        members = np.array([os.fsencode(path) for path in paths])
        split = _tar_split(root, files, shard, position, label, members)
        splits[name] = split._replace(findings=_copies(split, f"{path}: {name}"))
    return Dataset(splits, tuple(str(k) for k in range(classes)))


def _tar_split(
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    shard: np.ndarray,
    position: np.ndarray,
    label: np.ndarray,
    members: np.ndarray,
) -> Split:
    """Creates a split of images at their positions in shards."""
    shards = [str(file) for file in files]

    def name(index: int) -> str:
        member = os.fsdecode(members[index].partition(b"/")[2])
        return f"{shards[shard[index]]}: {printable_name(member)}"

    def read_bytes(index: int) -> bytes:
        with open(shards[shard[index]], "rb") as stream:
            stream.seek(position[index, 0])
            return stream.read(position[index, 1])

    def fetch(indices: np.ndarray) -> dict[str, Any]:
        images = [Encoded(read_bytes(i), name(i)) for i in indices]
        return {"image": images, "target": {"label": label[indices]}}

    size = lambda index: int(position[index, 1])
    stored = Stored(read_bytes, size, members, os.fsencode(root))
    return Split(len(label), fetch, name, label, stored=stored)


def _copies(split: Split, split_name: str) -> tuple[Finding, ...]:
    """Finds images that occur in two shards with the same key and the same bytes."""
    assert split.stored is not None
    assert split.stored.size is not None
    assert split.stored.files is not None
    members = (path.partition(b"/")[2] for path in split.stored.files.tolist())
    sizes = map(split.stored.size, range(split.size))
    duplicates = find_repeats([*zip(members, sizes, strict=True)])
    compared = itertools.islice(duplicates.items(), _MAX_COMPARED)
    read = split.stored.read
    rows = [row for row, first in compared if read(row) == read(first)]
    text = "images occur in another shard too"
    return note_finding(rows, split.size, text, split_name, split.name)
