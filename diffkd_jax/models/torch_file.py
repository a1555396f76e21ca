"""Weights in files written by PyTorch, read without it and without running code.

A ``.pth`` file is a pickle that names the functions to call when it is read, so it can
do anything. Here only the few names that rebuild tensors are known; the pickle gets
stand-ins for them, and any other name is refused.
"""

import argparse
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided
from safetensors import SafetensorError
from safetensors.numpy import load_file

DTYPES: dict[str, Any] = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ShortStorage": np.int16,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Where checkpoints keep the state dict of the model, in the order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")


class Storage(NamedTuple):
    """A flat array that is read after the pickle."""

    key: str
    dtype: Any
    size: int


class Tensor(NamedTuple):
    """A view of a storage: offset, shape and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a ``.safetensors`` or (zip or older) ``.pth`` file.

    Wrappers such as ``{"state_dict": ...}`` and the prefix ``module.`` are taken off;
    ``_diff.*``, the DiffKD blocks in checkpoints of the official code, are left out.

    Args:
      path: the file; its kind is found from its content.

    Returns:
      Name to array, in the layout of PyTorch and the dtypes of the file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, damaged, without a state dict, or a pickle that
        names anything but tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: found nothing, expected a file of weights")
    try:
        content = _read(path)
    except (
        SafetensorError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        struct.error,
        # What pickle raises on damaged input.
        AttributeError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(
            f"{path}: found {error!r}, expected weights in a .safetensors or .pth file"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    arrays = {
        name: value
        for name, value in _unwrap(content).items()
        if isinstance(value, np.ndarray)
    }
    if not arrays:
        found = sorted(map(str, content))[:8] if isinstance(content, Mapping) else "one"
        raise ValueError(
            f"{path}: found no arrays by name (but {found}), expected a state dict, "
            f"alone or under one of {list(WRAPPERS)}"
        )
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): v for name, v in arrays.items()}
    return {name: v for name, v in arrays.items() if not name.startswith("_diff.")}


def _unwrap(content: Any) -> Mapping:
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            return content[name]
    return content if isinstance(content, Mapping) else {}


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
        file.seek(0)
        if start.startswith(b"PK"):
            return _read_zip(file)
        if start[8:] == b"{":
            return load_file(path)
        return _read_legacy(file)


def _read_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
        if not pickles:
            raise ValueError(f"found a zip of {names[:6]}, expected */data.pkl")
        root = pickles[0].removesuffix("data.pkl")
        big = f"{root}byteorder" in names and archive.read(f"{root}byteorder") == b"big"
        with archive.open(pickles[0]) as stream:
            content = _Unpickler(stream).load()
        order = ">" if big else "<"

        def data(storage: Storage) -> np.ndarray:
            return _array(archive.read(f"{root}data/{storage.key}"), storage, order)

        return _resolve(content, data)


def _read_legacy(file: IO[bytes]) -> Any:
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise pickle.UnpicklingError("neither zip, safetensors nor the older format")
    _Unpickler(file).load()  # version of the protocol
    system = _Unpickler(file).load()
    order = "<" if system.get("little_endian", True) else ">"
    unpickler = _Unpickler(file)
    content = unpickler.load()
    keys = _Unpickler(file).load()
    arrays = {}
    for key in keys:
        storage = unpickler.storages[key]
        (size,) = struct.unpack(f"{order}q", file.read(8))
        if size != storage.size:
            raise ValueError(f"storage {key}: found {size} numbers, not {storage.size}")
        raw = file.read(size * np.dtype(storage.dtype).itemsize)
        arrays[key] = _array(raw, storage, order)
    return _resolve(content, lambda storage: arrays[storage.key])


def _array(raw: bytes, storage: Storage, order: str) -> np.ndarray:
    dtype = np.dtype(storage.dtype)
    if len(raw) != storage.size * dtype.itemsize:
        raise ValueError(
            f"storage {storage.key}: found {len(raw)} bytes, expected "
            f"{storage.size * dtype.itemsize}; the file is truncated"
        )
    array = np.frombuffer(raw, dtype)
    return array.byteswap() if order == ">" else array


def _resolve(content: Any, data: Callable[[Storage], np.ndarray]) -> Any:
    """Replaces tensors by arrays, in mappings of mappings."""
    if isinstance(content, Mapping):
        return {name: _resolve(value, data) for name, value in content.items()}
    if not isinstance(content, Tensor):
        return content
    storage, offset, shape, strides = content
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    empty = 0 in shape
    if min((offset, *shape, *strides)) < 0 or (not empty and last >= storage.size):
        raise ValueError(f"found a tensor outside its storage: {content}")
    flat = data(storage)
    itemsize = flat.itemsize
    view = as_strided(flat[offset:], shape, [s * itemsize for s in strides])
    return np.ascontiguousarray(view).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """Knows tensors, ordered dicts and namespaces of settings; refuses the rest."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(
            f"the name {module}.{name} in the pickle, which is not read because it "
            "could run code; save the state dict alone, or as .safetensors"
        )

    def persistent_load(self, saved: Any) -> Storage:
        kind, dtype, key, _, size = saved[:5]
        if kind != "storage" or (len(saved) > 5 and saved[5] is not None):
            raise pickle.UnpicklingError(f"a reference {saved}, not a whole storage")
        storage = Storage(str(key), dtype, int(size))
        return self.storages.setdefault(storage.key, storage)


def _rebuild_tensor(storage, offset, shape, strides, *ignored: Any) -> Tensor:
    return Tensor(storage, int(offset), tuple(shape), tuple(strides))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("argparse", "Namespace"): argparse.Namespace,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_parameter"): lambda data, *ignored: data,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
}
