"""State dicts in files, read without PyTorch and without running code."""

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

from ..file_kinds import EXPECTED, SAFETENSORS
from ..weights import Weights, open_weights
from .pickled_tensors import Storage, Tensor, read_content
from .state_dicts import choose_weights, strip_prefixes

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_EXPANDED = 2**20  # numbers in a tensor that repeats those of a smaller storage
_MAX_PICKLE_BYTES = 2**26
# A zip may unpack to 2^26 bytes plus 20 times its own size.
_FREE_BYTES, _MAX_GROWTH = 2**26, 20

_Choose = Callable[[Any], Mapping[str, Any]]


def read_state_dict(
    source: str | Path | Weights, weights: str = ""
) -> dict[str, np.ndarray]:
    """Reads the state dict in a ``.safetensors`` file or a ``.pth`` file of any age.

    Wrappers such as ``{"state_dict": ...}`` and prefixes such as ``module.`` are taken
    off, see :mod:`diffkd_jax.weights.torch.state_dicts`; the log says which. The DiffKD
    blocks in checkpoints of the official code (``_diff.*``) are left out.

    Args:
      source: the file; its content decides the format, not its name. Or weights that
        are already open.
      weights: "ema" for the moving average of the weights; "" for the weights
        themselves, or for the moving average if the file holds nothing else.

    Returns:
      Name to array, in the layout of PyTorch and the dtypes of the file. The arrays are
      views that cannot be written to.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file has another format, is damaged, holds no state dict, holds
        more bytes than it says, or is a pickle with names other than those of tensors
        and harmless values.

    >>> import tempfile
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "weights.safetensors")
    ...     save_file({"module.fc.bias": np.ones(2, np.float32)}, path)
    ...     list(read_state_dict(path))
    ['fc.bias']
    """
    opened = open_weights(source)
    path = opened.path
    try:
        choose = lambda content: choose_weights(path, content, weights)
        if opened.kind is SAFETENSORS:
            return strip_prefixes(path, choose(opened.arrays))
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            read = _read_zip if is_zip else _read_legacy
            return strip_prefixes(path, read(file, choose))
    except ValueError as error:
        text = str(error)
        is_named = text.startswith(str(path))
        raise ValueError(text if is_named else f"{path}: {text}") from None
    except (
        *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
        # Errors that damaged files raise.
        *(LookupError, MemoryError, OverflowError, RuntimeError, TypeError),
    ) as error:
        raise ValueError(f"{path}: found {repr(error)[:200]}, {EXPECTED}") from None


def _read_zip(file: IO[bytes], choose: _Choose) -> dict[str, np.ndarray]:
    """Reads the chosen tensors of a zip archive, the present format of PyTorch."""
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
            raise ValueError(f"{_describe_zip(names)}, {EXPECTED} (*/data.pkl)")
        root = pickles[0].removesuffix("data.pkl")
        order = "<"
        if f"{root}byteorder" in names:
            big = _read_entry(archive, f"{root}byteorder", limit=16) == b"big"
            order = ">" if big else "<"
        stream = io.BytesIO(_read_entry(archive, pickles[0], limit=_MAX_PICKLE_BYTES))
        tensors = choose(read_content(stream)[0])
        storages = {tensor.storage for tensor in tensors.values()}
        total = sum(_byte_count(storage) for storage in storages)
        if total > _FREE_BYTES + _MAX_GROWTH * size:
            raise ValueError(
                f"found {total:,} bytes of weights in a file of {size:,}, expected no "
                f"more than {_MAX_GROWTH} times its size"
            )
        arrays = {}
        for storage in storages:
            name = f"{root}data/{storage.key}"
            raw = _read_entry(archive, name, exactly=_byte_count(storage))
            arrays[storage] = _as_array(raw, storage, order)
    return {name: _view(t, arrays[t.storage]) for name, t in tensors.items()}


def _describe_zip(names: Sequence[str]) -> str:
    """Says what an archive is that PyTorch did not write, by the names in it."""
    if names and all(name.endswith(".npy") for name in names):
        return "found arrays of NumPy (.npz)"
    if "model.weights.h5" in names:
        return "found a model of Keras"
    return f"found a zip archive of {[name[:40] for name in names[:6]]}"


def _read_entry(
    archive: zipfile.ZipFile, name: str, *, limit: int = 0, exactly: int = 0
) -> bytes:
    """Reads an entry of a zip, whose size in bytes is limited or known beforehand."""
    info = archive.getinfo(name)
    limit = limit or exactly
    if info.flag_bits & 1:
        raise ValueError(
            f"found {name[:80]!r} encrypted, expected it without encryption"
        )
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"found {name[:80]!r} in compression {info.compress_type}, expected none "
            "or deflate"
        )
    with archive.open(info) as stream:
        raw = stream.read(limit + 1) if info.file_size <= limit else b""
    size = max(info.file_size, len(raw))
    if size > limit or (exactly and len(raw) != exactly):
        raise ValueError(
            f"found {size:,} bytes in {name[:80]!r}, expected "
            f"{'at most ' if not exactly else ''}{limit:,}"
        )
    return raw


def _read_legacy(file: IO[bytes], choose: _Choose) -> dict[str, np.ndarray]:
    """Reads the chosen tensors of a row of pickles, the older format of PyTorch."""
    if read_content(file)[0] != _LEGACY_MAGIC:
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
    remaining = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    arrays = {}
    for key in keys:
        storage = storages[key if isinstance(key, str) else str(int(key))]
        (size,) = struct.unpack(f"{order}q", file.read(8))
        remaining -= 8 + _byte_count(storage)
        if size != storage.size or remaining < 0:
            raise ValueError(
                f"storage {storage.key[:40]}: found {size:,} numbers declared and too "
                f"few bytes in the file, expected {storage.size:,}; it is truncated"
            )
        if storage.key in needed:
            arrays[storage.key] = _as_array(
                file.read(_byte_count(storage)), storage, order
            )
        else:
            file.seek(_byte_count(storage), os.SEEK_CUR)
    return {name: _view(t, arrays[t.storage.key]) for name, t in tensors.items()}


def _byte_count(storage: Storage) -> int:
    """Returns the size of a storage in bytes."""
    return int(storage.size * np.dtype(storage.dtype).itemsize)


def _as_array(raw: bytes, storage: Storage, order: str) -> np.ndarray:
    """Returns the bytes of a storage as an array; ``order`` is "<" or ">"."""
    if len(raw) != _byte_count(storage):
        raise ValueError(
            f"storage {storage.key[:40]}: found {len(raw)} bytes, expected "
            f"{_byte_count(storage)}; the file is truncated"
        )
    array = np.frombuffer(raw, storage.dtype)
    return array.byteswap() if order == ">" else array


def _view(tensor: Tensor, flat: np.ndarray) -> np.ndarray:
    """Returns a tensor as a view of its storage, which must contain it."""
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
    if count > max(flat.size, _MAX_EXPANDED):
        raise ValueError(
            f"found a tensor of {count:,} numbers in a storage of {flat.size:,}, "
            f"expected at most {_MAX_EXPANDED:,} if it repeats numbers"
        )
    steps = [stride * flat.itemsize for stride in strides]
    return as_strided(flat[offset:], shape, steps, writeable=False)
