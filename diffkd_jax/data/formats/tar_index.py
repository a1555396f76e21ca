"""The index of a tar shard: its labels, and the positions of its images."""

import json
import logging
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...io.signatures import refuse_pointer
from ..findings import some_of
from ..images.encoded import describe_reason
from ..images.headers import IMAGE_ENDINGS
from ..split import MAX_CLASSES
from .file_access import SYSTEM_NAMES
from .text import decode_text, make_name_finder, parse_whole_number, printable_name

LOG = logging.getLogger(__name__)
_MAX_LABEL_BYTES = 2**20


class TarIndex(NamedTuple):
    """The examples of a shard, and where their images are in it.

    Attributes:
      label: int32 ``[n]``, class of each image.
      position: int64 ``[n, 2]``, start and length of each image in the shard, in bytes.
      names: names of the images in the shard.
    """

    label: np.ndarray
    position: np.ndarray
    names: list[str]


def read_tar_index(file: pathlib.Path) -> TarIndex:
    """Reads the headers of a shard: which images it holds, with which labels.

    Args:
      file: path of the shard, a tar file without compression.

    Raises:
      ValueError: the shard is damaged, an image has no label, a label is not a class,
        or a key occurs twice.
    """
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
                    raise ValueError(
                        f"found {member.name!r} beyond the end of the file, expected "
                        "all of it"
                    )
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
    return TarIndex(
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
