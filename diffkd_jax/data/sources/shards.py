"""Tar shards of images, read in place."""

import itertools
import json
import logging
import os
import pathlib
import re
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ...io.signatures import refuse_pointer
from ..array_splits import check_labels
from ..findings import note_finding, repeated, some_of
from ..formats.single_files import require_path
from ..formats.text import (
    decode_text,
    make_name_finder,
    parse_whole_number,
    printable_name,
)
from ..images.encoded import Encoded, describe_reason
from ..images.headers import IMAGE_ENDINGS
from ..split import MAX_CLASSES, Dataset, Finding, Split, Stored
from .folders import SYSTEM_NAMES

LOG = logging.getLogger(__name__)
SHARD = re.compile(r"(?:.*-)?([A-Za-z]+)-\d+\.(?i:tar)")
_MAX_LABEL_BYTES = 2**20
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

    >>> import io, tempfile
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
            parts = list(pool.map(_index, files))
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


class _Examples(NamedTuple):
    """The examples of a shard.

    Attributes:
      label: int32 ``[n]``.
      position: int64 ``[n, 2]``, start and length of each image in the shard, in bytes.
      names: names of the images in the shard.
    """

    label: np.ndarray
    position: np.ndarray
    names: list[str]


def _index(file: pathlib.Path) -> _Examples:
    """Reads which images and labels a shard holds, and their positions."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, tuple[str, int]] = {}
    file_size = file.stat().st_size
    with file.open("rb") as stream:
        refuse_pointer(stream.read(512), str(file))
    try:
        # Compressed archives are refused, since examples are read by their position.
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, _, suffix = member.name.rpartition(".")
                suffix = suffix.lower()
                if not member.isreg() or _is_hidden(member.name):
                    continue
                if member.offset_data + member.size > file_size:
                    raise ValueError(f"{member.name!r} goes beyond the end of the file")
                if f".{suffix}" in IMAGE_ENDINGS:
                    if key in images:
                        raise _duplicate_key(images[key].name, member.name)
                    images[key] = member
                elif suffix in ("cls", "json"):
                    number = _read_label(archive, member, suffix)
                    name, other_number = labels.get(key, ("", number))
                    # A label may have both forms, if they agree.
                    if number != other_number or name.lower().endswith(f".{suffix}"):
                        raise _duplicate_key(name, member.name)
                    labels[key] = member.name, number
    except Exception as error:  # damaged archives raise errors of many kinds
        raise ValueError(
            f"{file}: not a shard of images: {describe_reason(error)}"
        ) from None
    find = make_name_finder(labels)
    label_keys = {key: find(key) for key in images}
    if unlabelled := [
        key for key, label_key in label_keys.items() if label_key is None
    ]:
        raise ValueError(
            f"{file}: found no label of {images[unlabelled[0]].name!r}, expected "
            f"{unlabelled[0]}.cls or .json beside it"
        )
    used = set(label_keys.values())
    _report_labels_alone(
        [name for key, (name, _) in labels.items() if key not in used], file
    )
    positions = [(member.offset_data, member.size) for member in images.values()]
    return _Examples(
        np.array([labels[key or ""][1] for key in label_keys.values()], np.int32),
        np.array(positions, np.int64).reshape(-1, 2),
        [member.name for member in images.values()],
    )


def _report_labels_alone(names: Sequence[str], file: pathlib.Path) -> None:
    """Logs how many labels have no image, and the first of them."""
    if names:
        LOG.warning(
            "%s: %d labels without an image, left out: %s; expected beside each a "
            "file, not a link, that ends in one of %s",
            file,
            len(names),
            printable_name(some_of(names, 3)),
            " ".join(IMAGE_ENDINGS),
        )


def _is_hidden(name: str) -> bool:
    """Returns whether a member is hidden or was created by an operating system."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part[0] == "." or part in SYSTEM_NAMES for part in parts)


def _duplicate_key(first: str, second: str) -> ValueError:
    """Returns the error for two members with one key."""
    return ValueError(
        f"found {first!r} and {second!r}, which have one key, expected one image and "
        "one label of each key (the name up to its last dot); put a folder or a number "
        "in front of it"
    )


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> int:
    """Reads the label of one example."""
    if member.size > _MAX_LABEL_BYTES:
        raise ValueError(
            f"found {member.size} bytes in {member.name!r}, expected at most "
            f"{_MAX_LABEL_BYTES}"
        )
    stream = archive.extractfile(member)
    text = decode_text(stream.read() if stream else b"", repr(member.name))
    value: Any = text.strip()
    if suffix == "json":
        try:
            value = json.loads(text)["label"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{member.name!r}: found no JSON object with a label: "
                f"{describe_reason(error)}"
            ) from None
    number = parse_whole_number(value)
    if number is None or not 0 <= number < MAX_CLASSES:
        raise ValueError(
            f"found label {str(value)[:40]!r} in {member.name!r}, expected a number "
            f"from 0 to {MAX_CLASSES - 1}"
        )
    return number


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
    duplicates = repeated([*zip(members, sizes, strict=True)])
    compared = itertools.islice(duplicates.items(), _MAX_COMPARED)
    read = split.stored.read
    rows = [row for row, first in compared if read(row) == read(first)]
    text = "images occur in another shard too"
    return note_finding(rows, split.size, text, split_name, split.name)
