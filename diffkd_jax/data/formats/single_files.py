"""Readers of single files, whose errors name the file."""

import gzip
import json
import math
import os
import pathlib
import zipfile
import zlib
from typing import Any

import numpy as np

from ...io.signatures import refuse_pointer
from ..images.decoding import decode_image
from ..images.encoded import Encoded, describe_reason
from .image_paths import make_path_finder
from .text import read_text

# A file that unpacks to more than both limits is not a data set of images.
MAX_GROWTH = 100
SMALL_BYTES = 2**28
MAX_JSON_BYTES = 2**26


def require_path(path: str) -> pathlib.Path:
    """Returns the path of a data set that exists.

    Args:
      path: what the user gave; ``~`` is expanded.

    Raises:
      FileNotFoundError: the path is empty, or nothing exists there.
      ValueError: ``~`` with an unknown user.
    """
    expected = "expected the data set's file or directory; set --config.data.path=PATH"
    if not path:
        raise FileNotFoundError(f"data.path: found no path, {expected}")
    try:
        expanded = pathlib.Path(path).expanduser()
    except RuntimeError as error:  # an unknown user
        raise ValueError(f"data.path: found {path!r}: {error}") from None
    if not expanded.exists():
        shown = repr(str(expanded.absolute()))
        # The disk may spell a letter with an accent in another Unicode form.
        other = make_path_finder(expanded.anchor)(
            os.fspath(expanded.relative_to(expanded.anchor))
        )
        if other is not None and os.path.exists(os.path.join(expanded.anchor, other)):
            return pathlib.Path(expanded.anchor, other)
        if expanded.is_symlink():
            shown += f", a link to {os.readlink(expanded)!r}"
        raise FileNotFoundError(f"data.path: found nothing at {shown}, {expected}")
    return expanded


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Reads all arrays of a ``.npz`` file; pickled arrays are refused.

    Args:
      path: path of the file.

    Returns:
      Arrays by name.

    Raises:
      ValueError: the file is damaged, or an array does not have the size that it
        declares, or unpacks to more than is plausible. Nothing is allocated in these
        cases.
      FileNotFoundError: the file does not exist.
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
    except Exception as error:  # damaged archives raise errors of many kinds
        raise ValueError(
            f"{path}: not a readable .npz file: {describe_reason(error)}"
        ) from None


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array of an archive, after its header has been checked."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(
                f"found pickled objects in {member.filename}, expected numbers"
            )
        declared = math.prod(shape) * dtype.itemsize
        if stream.tell() + declared != member.file_size or min(shape, default=0) < 0:
            raise ValueError(
                f"found {member.file_size} bytes in {member.filename}, expected the "
                f"{dtype} {shape} that it declares"
            )
        values = np.frombuffer(stream.read(), dtype) if declared else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def read_idx(path: str, name: str, rank: int) -> np.ndarray:
    """Reads an idx file of uint8 values, plain or ``.gz``, as MNIST has them.

    Args:
      path: folder of the file.
      name: name of the file without ``.gz``.
      rank: number of dimensions.

    Returns:
      uint8, of the shape in the header.

    Raises:
      ValueError: the file is damaged, or has another rank.
      FileNotFoundError: the file does not exist.
    """
    root = require_path(path)
    file = next((f for f in (root / name, root / f"{name}.gz") if f.exists()), None)
    if file is None:
        raise FileNotFoundError(
            f"{root}: found no {name} or {name}.gz, expected both "
            "images and labels of train and t10k"
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
        size = f"{len(data)}" if len(data) < expected else f"more than {expected}"
        raise ValueError(
            f"{file}: found {size} bytes, expected {expected} for {tuple(shape)}"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_sheet(file: pathlib.Path) -> np.ndarray:
    """Reads a sheet of 32x32 images, one image for each row of 1024 pixels.

    Args:
      file: path of an image file.

    Returns:
      uint8 ``[n, 32, 32, 3]``.

    Raises:
      ValueError: the file does not decode, or is not 1024 pixels wide.
      FileNotFoundError: the file does not exist.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a sheet of images")
    sheet = decode_image(Encoded(file.read_bytes(), str(file)))
    if sheet.shape[1] != 1024:
        raise ValueError(f"{file}: found width {sheet.shape[1]}, expected 1024")
    return sheet.reshape(-1, 32, 32, 3)


def read_json(file: pathlib.Path) -> Any:
    """Reads a JSON file of labels.

    Args:
      file: path of the file.

    Raises:
      ValueError: the file is not JSON, or too large.
      FileNotFoundError: the file does not exist.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a list of labels")
    try:
        return json.loads(read_text(file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file}: not a JSON list of labels: {describe_reason(error)}"
        ) from None


def _first_bytes(file: pathlib.Path) -> bytes:
    """Returns the first 512 bytes of a file, or a text if the path is no file."""
    if not file.is_file():
        return b"no file"
    with file.open("rb") as stream:
        return stream.read(512)


def _check_growth(file: pathlib.Path, unpacked: int) -> None:
    """Refuses a file that would unpack to far more than its own size."""
    stored = file.stat().st_size
    if unpacked > max(SMALL_BYTES, MAX_GROWTH * stored):
        raise ValueError(
            f"{file}: found {unpacked} bytes declared in a file of {stored}, expected "
            f"at most {MAX_GROWTH} times as many"
        )
