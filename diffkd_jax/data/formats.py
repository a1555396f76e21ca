"""Readers of single files, each with errors that name the file."""

import gzip
import json
import pathlib
import pickle
import zipfile
import zlib
from typing import Any

import numpy as np

from .decoding import Encoded, decode


def existing(path: str) -> pathlib.Path:
    found = pathlib.Path(path).expanduser()
    if not path or not found.exists():
        raise FileNotFoundError(
            f"data.path: found nothing at {path!r}, expected the data set's file or "
            "directory; set --config.data.path"
        )
    return found


def read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of a ``.npz`` file, none of them pickled."""
    try:
        # Opened here: numpy leaves a damaged archive open.
        with existing(path).open("rb") as stream, np.load(stream) as file:
            return dict(file)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz file: {error}") from None


def read_idx(path: str, name: str, rank: int) -> np.ndarray:
    root = existing(path)
    file = next((f for f in (root / name, root / f"{name}.gz") if f.exists()), None)
    if file is None:
        raise FileNotFoundError(
            f"{root}: found no {name} or {name}.gz, expected both "
            "pictures and labels of train and t10k"
        )
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix else file.read_bytes()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{file}: truncated or damaged: {error}") from None
    start = 4 * (rank + 1)
    header = np.frombuffer(data[:start].ljust(start, b"\0"), ">i4")
    if len(data) < start or header[0] != 0x800 + rank:
        raise ValueError(f"{file}: found no idx header of rank {rank}")
    shape = tuple(int(n) for n in header[1:])
    body = np.frombuffer(data, np.uint8, offset=start)
    if body.size != np.prod(shape):
        raise ValueError(
            f"{file}: found {body.size} bytes, expected {np.prod(shape)} for {shape}"
        )
    return body.reshape(shape)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled numpy arrays and plain containers, refuses all else."""

    def find_class(self, module, name):
        allowed = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        reconstruct = (module.replace("_core", "core"), name)
        if reconstruct == ("numpy.core.multiarray", "_reconstruct"):
            return super().find_class("numpy._core.multiarray", "_reconstruct")
        if (module, name) in allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused {module}.{name}")


def read_batch(file: pathlib.Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a CIFAR python batch")
    try:
        with file.open("rb") as stream:
            batch = _ArraysOnly(stream, encoding="bytes").load()
        image = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(image), np.asarray(batch[label_key])
    except (
        pickle.UnpicklingError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ValueError(f"{file}: not a CIFAR python batch: {error}") from None


def read_sheet(file: pathlib.Path) -> np.ndarray:
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a sheet of pictures")
    sheet = decode(Encoded(file.read_bytes(), str(file)))
    if sheet.shape[1] != 1024:
        raise ValueError(f"{file}: found width {sheet.shape[1]}, expected 1024")
    return sheet.reshape(-1, 32, 32, 3)


def read_json(file: pathlib.Path) -> Any:
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a list of labels")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not a JSON list of labels: {error}") from None
