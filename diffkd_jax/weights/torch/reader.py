"""Weights in files written by PyTorch, read without it and without running code."""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..checks import expand
from ..file_kinds import EXPECTED, SAFETENSORS, check_weights, what_is_at
from ..tensors import read_arrays
from .pickled_tensors import Storage, Tensor, read_content
from .state_dicts import choose, strip

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MOST_EXPANDED = 2**20  # numbers that a tensor may show of a smaller storage
PICKLE_BYTES = 2**26
# A zip may unpack to so many bytes, and so many times its size more.
FREE_BYTES, MOST_GROWTH = 2**26, 20

Choose = Callable[[Any], Mapping[str, Any]]


def read_state_dict(path: str | Path, weights: str = "") -> dict[str, np.ndarray]:
    """The state dict in a ``.safetensors`` or (zip or older) ``.pth`` file.

    Wrappers such as ``{"state_dict": ...}`` and prefixes such as ``module.`` are taken
    off, see :mod:`diffkd_jax.weights.torch.state_dicts`; the log says which.
    ``_diff.*``, the DiffKD blocks in checkpoints of the official code, are left out.

    Args:
      path: the file; its kind is found from its content.
      weights: "ema" for the average of the weights; "" for the weights themselves, or
        for the average where it is alone in the file.

    Returns:
      Name to array, in the layout of PyTorch and the dtypes of the file; read-only
      views of what is stored.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, damaged, without a state dict, larger than it says,
        or a pickle that names anything but tensors and harmless values.
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: found {what_is_at(path)}, expected a file of weights"
        )
    kind = check_weights(path)
    try:
        pick = lambda content: choose(path, content, weights)
        if kind is SAFETENSORS:
            return strip(path, pick(read_arrays(path)))
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            return strip(path, (_read_zip if is_zip else _read_legacy)(file, pick))
    except ValueError as error:
        text = str(error)
        known = text.startswith(str(path))
        raise ValueError(text if known else f"{path}: {text}") from None
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
        # What damaged input gives.
        *(LookupError, MemoryError, OverflowError, RuntimeError, TypeError),
    ) as error:
        raise ValueError(f"{path}: found {repr(error)[:200]}, {EXPECTED}") from None


def _read_zip(file: IO[bytes], choose: Choose) -> dict[str, np.ndarray]:
    size = file.seek(0, os.SEEK_END)
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"found {size:,} bytes of a zip archive without its end, {EXPECTED}; it is "
            "truncated: download it again"
        )
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if any(name.endswith("/constants.pkl") for name in names):
            raise ValueError(
                f"found a module of TorchScript, {EXPECTED}; save its state_dict()"
            )
        if not pickles:
            raise ValueError(f"{_other_zip(names)}, {EXPECTED} (*/data.pkl)")
        root = pickles[0].removesuffix("data.pkl")
        order = "<"
        if f"{root}byteorder" in names:
            big = _entry(archive, f"{root}byteorder", most=16) == b"big"
            order = ">" if big else "<"
        stream = io.BytesIO(_entry(archive, pickles[0], most=PICKLE_BYTES))
        tensors = choose(read_content(stream)[0])
        storages = {tensor.storage for tensor in tensors.values()}
        total = sum(_bytes(storage) for storage in storages)
        if total > FREE_BYTES + MOST_GROWTH * size:
            raise ValueError(
                f"found {total:,} bytes of weights in a file of {size:,}, expected no "
                f"more than {MOST_GROWTH} times its size"
            )
        flat = {}
        for storage in storages:
            name = f"{root}data/{storage.key}"
            raw = _entry(archive, name, exactly=_bytes(storage))
            flat[storage] = _array(raw, storage, order)
    return {name: _view(t, flat[t.storage]) for name, t in tensors.items()}


def _other_zip(names: Sequence[str]) -> str:
    """What an archive is that PyTorch did not write, by the names in it."""
    if names and all(name.endswith(".npy") for name in names):
        return "found arrays of NumPy (.npz)"
    if "model.weights.h5" in names:
        return "found a model of Keras"
    return f"found a zip archive of {[name[:40] for name in names[:6]]}"


def _entry(
    archive: zipfile.ZipFile, name: str, *, most: int = 0, exactly: int = 0
) -> bytes:
    """An entry of a zip, of a size that is known before it is unpacked."""
    info = archive.getinfo(name)
    most = most or exactly
    if info.flag_bits & 1:
        raise ValueError(f"found {name[:80]!r} encrypted, expected a file without")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"found {name[:80]!r} in compression {info.compress_type}, expected none "
            "or deflate"
        )
    with archive.open(info) as stream:
        raw = stream.read(most + 1) if info.file_size <= most else b""
    if info.file_size > most or len(raw) > most or (exactly and len(raw) != exactly):
        found = max(info.file_size, len(raw))
        raise ValueError(
            f"found {found:,} bytes in {name[:80]!r}, expected "
            f"{'at most ' if not exactly else ''}{most:,}"
        )
    return raw


def _read_legacy(file: IO[bytes], choose: Choose) -> dict[str, np.ndarray]:
    if read_content(file)[0] != LEGACY_MAGIC:
        raise ValueError(f"found a pickle that torch.save did not write, {EXPECTED}")
    read_content(file)  # version of the protocol
    system, _ = read_content(file)
    content, declared = read_content(file)
    keys, _ = read_content(file)
    if not (isinstance(system, dict) and isinstance(keys, list)):
        raise ValueError(f"found no list of storages, {EXPECTED}")
    order = "<" if system.get("little_endian", True) is True else ">"
    storages = {storage.key: storage for storage in declared}
    if any(storages[storage.key] != storage for storage in declared):
        raise ValueError("found one storage with two sizes")
    tensors = choose(content)
    needed = {tensor.storage.key for tensor in tensors.values()}
    start = file.tell()
    left = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    flat = {}
    for key in keys:
        storage = storages[key if isinstance(key, str) else str(int(key))]
        (size,) = struct.unpack(f"{order}q", file.read(8))
        left -= 8 + _bytes(storage)
        if size != storage.size or left < 0:
            raise ValueError(
                f"storage {storage.key[:40]}: found {size:,} numbers declared and too "
                f"few bytes in the file, expected {storage.size:,}; it is truncated"
            )
        if storage.key in needed:
            flat[storage.key] = _array(file.read(_bytes(storage)), storage, order)
        else:
            file.seek(_bytes(storage), os.SEEK_CUR)
    return {name: _view(t, flat[t.storage.key]) for name, t in tensors.items()}


def _bytes(storage: Storage) -> int:
    return storage.size * np.dtype(storage.dtype).itemsize


def _array(raw: bytes, storage: Storage, order: str) -> np.ndarray:
    if len(raw) != _bytes(storage):
        raise ValueError(
            f"storage {storage.key[:40]}: found {len(raw)} bytes, expected "
            f"{_bytes(storage)}; the file is truncated"
        )
    array = np.frombuffer(raw, storage.dtype)
    return array.byteswap() if order == ">" else array


def _view(tensor: Tensor, flat: np.ndarray) -> np.ndarray:
    _, offset, shape, strides = tensor
    count = math.prod(shape)
    if not count:
        return np.empty(shape, flat.dtype)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if last >= flat.size:
        raise ValueError(
            f"found a tensor outside its storage of {flat.size} numbers: offset "
            f"{offset}, shape {shape[:8]}, strides {strides[:8]}"
        )
    if count > max(flat.size, MOST_EXPANDED):
        raise ValueError(
            f"found a tensor of {count:,} numbers in a storage of {flat.size:,}, "
            f"expected at most {MOST_EXPANDED:,} where it repeats some"
        )
    steps = [stride * flat.itemsize for stride in strides]
    return as_strided(flat[offset:], shape, steps, writeable=False)
