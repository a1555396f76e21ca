"""Readers of single files, each with errors that name the file."""

import gzip
import json
import math
import os
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from ..images.decoding import Encoded, decode_image, describe_reason
from ..images.signatures import refuse_pointer
from .image_paths import make_path_finder
from .text import read_text

# A file that grows beyond both when it is unpacked is no data set of pictures.
MAX_GROWTH = 100
SMALL_BYTES = 2**28
MAX_JSON_BYTES = 2**26


def require_path(path: str) -> pathlib.Path:
    expected = "expected the data set's file or directory; set --config.data.path=PATH"
    if not path:
        raise FileNotFoundError(f"data.path: found no path, {expected}")
    try:
        found = pathlib.Path(path).expanduser()
    except RuntimeError as error:  # a user who is not known
        raise ValueError(f"data.path: found {path!r}: {error}") from None
    if not found.exists():
        where = repr(str(found.absolute()))
        # The disk may write a letter with an accent in another Unicode form.
        other = make_path_finder(found.anchor)(
            os.fspath(found.relative_to(found.anchor))
        )
        if other is not None and os.path.exists(os.path.join(found.anchor, other)):
            return pathlib.Path(found.anchor, other)
        if found.is_symlink():
            where += f", a link to {os.readlink(found)!r}"
        raise FileNotFoundError(f"data.path: found nothing at {where}, {expected}")
    return found


def read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz`` file, none of them pickled.

    Raises:
      ValueError: a damaged file, or one whose arrays are not of the size they declare
        or unpack to more than is plausible; nothing is allocated for those.
    """
    file = require_path(path)
    refuse_pointer(_first_bytes(file), path)
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_growth(file, sum(member.file_size for member in members))
            return {
                member.filename.removesuffix(".npy"): _read_npy(archive, member)
                for member in members
            }
    except Exception as error:  # whatever a damaged archive makes of its readers
        raise ValueError(
            f"{path}: not a readable .npz file: {describe_reason(error)}"
        ) from None


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds pickled objects")
        declared = math.prod(shape) * dtype.itemsize
        if stream.tell() + declared != member.file_size or min(shape, default=0) < 0:
            raise ValueError(
                f"{member.filename} declares {dtype} {shape} and holds "
                f"{member.file_size} bytes"
            )
        values = np.frombuffer(stream.read(), dtype) if declared else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def read_idx(path: str, name: str, rank: int) -> np.ndarray:
    root = require_path(path)
    file = next((f for f in (root / name, root / f"{name}.gz") if f.exists()), None)
    if file is None:
        raise FileNotFoundError(
            f"{root}: found no {name} or {name}.gz, expected both "
            "pictures and labels of train and t10k"
        )
    refuse_pointer(_first_bytes(file), str(file))
    try:
        with gzip.open(file) if file.suffix else file.open("rb") as stream:
            header = stream.read(4 * (rank + 1)).ljust(4 * (rank + 1), b"\0")
            magic, *shape = (int(n) for n in np.frombuffer(header, ">i4"))
            if magic != 0x800 + rank or min(shape) < 0:
                raise ValueError(f"{file}: found no idx header of rank {rank}")
            expected = math.prod(shape)
            _check_growth(file, expected)
            data = stream.read(expected + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: truncated or damaged: {error}") from None
    if len(data) != expected:
        found = f"{len(data)}" if len(data) < expected else f"more than {expected}"
        raise ValueError(
            f"{file}: found {found} bytes, expected {expected} for {tuple(shape)}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_sheet(file: pathlib.Path) -> np.ndarray:
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a sheet of pictures")
    sheet = decode_image(Encoded(file.read_bytes(), str(file)))
    if sheet.shape[1] != 1024:
        raise ValueError(f"{file}: found width {sheet.shape[1]}, expected 1024")
    return sheet.reshape(-1, 32, 32, 3)


def read_json(file: pathlib.Path) -> Any:
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a list of labels")
    try:
        return json.loads(read_text(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not a JSON list of labels: {describe_reason(error)}"
        ) from None


def _first_bytes(file: pathlib.Path) -> bytes:
    if not file.is_file():
        return b"no file"
    with file.open("rb") as stream:
        return stream.read(512)


def _check_growth(file: pathlib.Path, unpacked: int) -> None:
    stored = file.stat().st_size
    if unpacked > max(SMALL_BYTES, MAX_GROWTH * stored):
        raise ValueError(
            f"{file}: declares {unpacked} bytes, more than {MAX_GROWTH} times the "
            f"{stored} of the file"
        )
