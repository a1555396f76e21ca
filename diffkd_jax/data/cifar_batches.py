"""CIFAR's python batches: pickles of a dictionary with arrays, read as such alone."""

import io
import pathlib
import pickle
import pickletools
import re
from typing import Any

import numpy as np


def read_batch(file: pathlib.Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 ``[n, 32, 32, 3]`` and labels ``[n]``.

    Raises:
      FileNotFoundError: no such file.
      ValueError: anything but a dictionary of arrays and lists of numbers. No function
        is called that the file names.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a CIFAR python batch")
    try:
        data = file.read_bytes()
        _check_opcodes(data)
        batch = _Inert(io.BytesIO(data), encoding="bytes").load()
        image = _array(batch[b"data"])
        if image.dtype != np.uint8:
            raise ValueError(f"found pictures {image.dtype}, expected uint8")
        image = image.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(image), _array(batch[label_key])
    except Exception as error:  # whatever a damaged pickle makes of its reader
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file}: not a CIFAR python batch: {reason}") from None


class _Stored:
    """What a pickle says of an array or a dtype, nothing built from it yet."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


def _latin1(text: str, codec: str) -> bytes:
    """How Python 3 writes bytes in older pickles."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"found the codec {codec!r}, expected latin1")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Stored,
    ("numpy._core.multiarray", "_reconstruct"): _Stored,
    ("numpy", "ndarray"): _Stored,
    ("numpy", "dtype"): _Stored,
    ("_codecs", "encode"): _latin1,
}


class _Inert(pickle.Unpickler):
    """Stands in for the names that arrays need, refuses all else."""

    def find_class(self, module, name):
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"refused {module}.{name}")
        return _STAND_INS[module, name]


def _check_opcodes(data: bytes) -> None:
    """Refuses places in the memo that would be allocated, up to the largest."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and int(argument or 0) > len(data):
            raise pickle.UnpicklingError(f"found place {argument} in the memo")


def _array(stored: Any) -> np.ndarray:
    """An array of integers, no larger than the bytes that the file holds of it."""
    if isinstance(stored, list):
        if any(type(value) is not int for value in stored):
            raise ValueError("found a list of other than integers")
        return np.array(stored, np.int64)
    _, shape, dtype, fortran, data = stored.state
    kind = dtype.arguments[0]
    kind = kind.decode() if isinstance(kind, bytes) else kind
    order = dtype.state[1]
    order = order.decode() if isinstance(order, bytes) else order
    if not re.fullmatch("[<>=|][ui][1248]", f"{order}{kind}"):
        raise ValueError(f"found numbers {order}{kind}, expected integers")
    values = np.frombuffer(data, np.dtype(order + kind))
    return values.reshape(shape, order="F" if fortran else "C")
