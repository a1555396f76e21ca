"""Tar shards of pictures, read in place."""

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
from ..formats.single_files import require_path
from ..formats.text import (
    decode_text,
    make_name_finder,
    parse_whole_number,
    printable_name,
)
from ..images.decoding import IMAGE_ENDINGS, Encoded, describe_reason
from ..split import MAX_CLASSES, Dataset, Doubt, Split, Stored, check_labels, some_of
from ..suspects import note_doubts, repeated
from .folders import SYSTEM_NAMES

LOG = logging.getLogger(__name__)
SHARD = re.compile(r"(?:.*-)?([A-Za-z]+)-\d+\.(?i:tar)")
_MAX_LABEL_BYTES = 2**20
_MAX_COMPARED = 500  # images of one key in two shards


def load_tar(path: str) -> Dataset:
    """Tar shards in the manner of WebDataset: ``<anything>-<split>-<number>.tar``.

    An example is a picture ``<key>.jpg`` (or another of :data:`PICTURES`) and its label
    beside it, ``<key>.cls`` with a number as text, or ``<key>.json`` with ``label``.
    Endings are taken in any case. Hidden members, and those that systems leave, are
    left out as in folders. Labels without an image are counted in the log. The shards
    are indexed at start, by their headers, and read in any order.

    Raises:
      ValueError: a damaged shard, an image without a label, or a key that stands twice
        in one shard; the message names shard and member.
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
        place = np.concatenate([part.place for part in parts])
        shard = np.repeat(np.arange(len(files)), [len(part.label) for part in parts])
        if not len(label):
            raise ValueError(f"{path}: {name}: found no pictures in its shards")
        classes = max(classes, int(label.max()) + 1)
        check_labels(label, classes, f"{path}: {name}")
        paths = (
            os.path.join(file.name, name)
            for file, part in zip(files, parts, strict=True)
            for name in part.names
        )
        members = np.array([os.fsencode(path) for path in paths])
        split = _tar_split(root, files, shard, place, label, members)
        splits[name] = split._replace(doubts=_copies(split, f"{path}: {name}"))
    return Dataset(splits, tuple(str(k) for k in range(classes)))


class _Examples(NamedTuple):
    """The examples of a shard.

    Attributes:
      label: int ``[n]``.
      place: int ``[n, 2]``, start and length of each image in the shard, bytes.
      names: of the images in the shard.
    """

    label: np.ndarray
    place: np.ndarray
    names: list[str]


def _index(file: pathlib.Path) -> _Examples:
    """Reads which images and labels a shard holds, and where."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, tuple[str, int]] = {}
    end = file.stat().st_size
    with file.open("rb") as stream:
        refuse_pointer(stream.read(512), str(file))
    try:
        # Not compressed as a whole: examples are read from where they lie.
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                key, _, suffix = member.name.rpartition(".")
                suffix = suffix.lower()
                if not member.isreg() or _is_hidden(member.name):
                    continue
                if member.offset_data + member.size > end:
                    raise ValueError(f"{member.name!r} goes beyond the end of the file")
                if f".{suffix}" in IMAGE_ENDINGS:
                    if key in images:
                        raise _twice(images[key].name, member.name)
                    images[key] = member
                elif suffix in ("cls", "json"):
                    number = _label(archive, member, suffix)
                    name, other = labels.get(key, ("", number))
                    # A label may stand in both forms, if they agree.
                    if number != other or name.lower().endswith(f".{suffix}"):
                        raise _twice(name, member.name)
                    labels[key] = member.name, number
    except Exception as error:  # whatever a damaged archive makes of its reader
        raise ValueError(
            f"{file}: not a shard of pictures: {describe_reason(error)}"
        ) from None
    find = make_name_finder(labels)
    of_images = {key: find(key) for key in images}
    if unlabelled := [key for key, found in of_images.items() if found is None]:
        raise ValueError(
            f"{file}: found no label of {images[unlabelled[0]].name!r}, expected "
            f"{unlabelled[0]}.cls or .json beside it"
        )
    used = set(of_images.values())
    _report_lonely([name for key, (name, _) in labels.items() if key not in used], file)
    places = [(member.offset_data, member.size) for member in images.values()]
    return _Examples(
        np.array([labels[key or ""][1] for key in of_images.values()], np.int32),
        np.array(places, np.int64).reshape(-1, 2),
        [member.name for member in images.values()],
    )


def _report_lonely(names: Sequence[str], file: pathlib.Path) -> None:
    """Counts and names in the log the labels that have no image."""
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
    """Whether a member is hidden, or left by a system, as folders leave it out."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return any(part[0] == "." or part in SYSTEM_NAMES for part in parts)


def _twice(first: str, second: str) -> ValueError:
    return ValueError(
        f"found {first!r} and {second!r}, which have one key, expected one image and "
        "one label of each key (the name up to its last dot); put a folder or a number "
        "in front of it"
    )


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> int:
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
    place: np.ndarray,
    label: np.ndarray,
    members: np.ndarray,
) -> Split:
    shards = [str(file) for file in files]

    def name(index):
        member = os.fsdecode(members[index].partition(b"/")[2])
        return f"{shards[shard[index]]}: {printable_name(member)}"

    def content(index):
        with open(shards[shard[index]], "rb") as stream:
            stream.seek(place[index, 0])
            return stream.read(place[index, 1])

    def fetch(indices):
        images = [Encoded(content(i), name(i)) for i in indices]
        return {"image": images, "target": {"label": label[indices]}}

    size = lambda index: int(place[index, 1])
    stored = Stored(content, size, members, os.fsencode(root))
    return Split(len(label), fetch, name, label, stored=stored)


def _copies(split: Split, where: str) -> tuple[Doubt, ...]:
    """Finds images that stand in two shards, with one key and the same bytes."""
    assert split.stored is not None
    assert split.stored.size is not None
    assert split.stored.files is not None
    members = (path.partition(b"/")[2] for path in split.stored.files.tolist())
    sizes = map(split.stored.size, range(split.size))
    again = repeated([*zip(members, sizes, strict=True)])
    looked_at = itertools.islice(again.items(), _MAX_COMPARED)
    read = split.stored.read
    rows = [row for row, first in looked_at if read(row) == read(first)]
    text = "images stand in another shard too"
    return note_doubts(rows, split.size, text, where, split.name)
