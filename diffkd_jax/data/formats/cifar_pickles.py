"""Reader of CIFAR's python batches, which are pickles of dictionaries of arrays.

Nothing else than such a dictionary is accepted, and nothing that a file names is
called.
"""

import io
import pathlib
import pickle
import pickletools
import re
from typing import Any

import numpy as np

from ..images.decoding import describe_reason
from ..images.signatures import refuse_pointer


def read_batch(file: pathlib.Path, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Reads images uint8 ``[n, 32, 32, 3]`` and labels ``[n]`` from one batch.

    Args:
      file: path of the batch.
      label_key: key of the labels, ``b"labels"`` or ``b"fine_labels"``.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: anything but a dictionary of arrays and lists of integers.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: found nothing, expected a CIFAR python batch")
    try:
        data = file.read_bytes()
        refuse_pointer(data, "content")
        _check_opcodes(data)
        batch = _Inert(io.BytesIO(data), encoding="bytes").load()
        image = _array(_field(batch, b"data"))
        if image.dtype != np.uint8:
            raise ValueError(f"found images {image.dtype}, expected uint8")
        image = image.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(image), _array(_field(batch, label_key))
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise ValueError(
            f"{file}: not a CIFAR python batch: {describe_reason(error)}"
        ) from None


def read_names(file: pathlib.Path, key: bytes, count: int) -> tuple[str, ...]:
    """Reads the names of the classes from the file beside the batches.

    Args:
      file: ``batches.meta`` or ``meta``; it need not exist.
      key: key of the list of names.
      count: expected number of names.

    Returns:
      The names, or () without the file.

    Raises:
      ValueError: the file is damaged, or has another number of names.
    """
    if not file.exists():
        return ()
    try:
        data = file.read_bytes()
        refuse_pointer(data, "content")
        _check_opcodes(data)
        stored = _field(_Inert(io.BytesIO(data), encoding="bytes").load(), key)
        if not isinstance(stored, list) or len(stored) != count:
            raise ValueError(f"expected a list of {count} names")
        texts = (name if isinstance(name, str) else _bytes(name) for name in stored)
        return tuple(text if isinstance(text, str) else text.decode() for text in texts)
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise ValueError(
            f"{file}: no names of classes: {describe_reason(error)}"
        ) from None


class _Stored:
    """Arguments and state of an array, dtype or bytes in a pickle, not yet built."""

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """A stand-in for a function or class that a pickle names."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Stored:
        return _Stored(*arguments)


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),  # how Python 3 writes bytes in older pickles
}
# A nested tuple that uses parts twice can hold 2^n entries, and hashing it as a key
# takes as long. So only objects made by these opcodes may be used again from the memo.
_USED_AGAIN = re.compile(
    "(STACK_)?GLOBAL|REDUCE|(EMPTY_)?(LIST|DICT)|(SHORT_)?BIN(STRING|BYTES|UNICODE)8?"
    "|STRING|UNICODE"
)
_REFUSED = {"DUP", "POP", "POP_MARK", "EMPTY_SET", "ADDITEMS", "FROZENSET"}


class _Inert(pickle.Unpickler):
    """An unpickler that replaces the names that arrays need, and refuses all others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"refused {module}.{name}")
        return _Name()


def _check_opcodes(data: bytes) -> None:
    """Refuses pickles that take memory or time out of proportion to their size."""
    memo: dict[int, str] = {}  # opcode that made the object in each slot
    last = ""
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in _REFUSED:
            raise pickle.UnpicklingError(f"found {name}, expected arrays alone")
        if "PUT" in name or name == "MEMOIZE":
            slot = len(memo) if name == "MEMOIZE" else int(argument or 0)
            if slot > len(data):  # all slots up to the largest are allocated
                raise pickle.UnpicklingError(f"found slot {slot} in the memo")
            memo[slot] = last
        elif "GET" in name:
            made_by = memo.get(int(argument or 0), "")
            if not _USED_AGAIN.fullmatch(made_by):
                raise pickle.UnpicklingError(f"found an object of {made_by} used again")
            last = made_by
        elif name not in ("FRAME", "PROTO"):
            last = name


def _field(batch: Any, name: bytes) -> Any:
    """Returns one entry of a batch."""
    if not isinstance(batch, dict):
        raise ValueError(f"found {type(batch).__name__}, expected a dictionary")
    written = (name.decode(), "latin1")
    for key, value in batch.items():
        if key in (name, name.decode()) or (
            isinstance(key, _Stored) and key.arguments == written
        ):
            return value
    raise ValueError(f"found no {name.decode()!r}")


def _bytes(stored: Any) -> bytes:
    """Returns bytes that are stored as bytes, text, or text with the codec latin1."""
    if isinstance(stored, _Stored):
        text, codec = stored.arguments
        if type(text) is not str or type(codec) is not str or codec != "latin1":
            raise ValueError("found bytes of another codec, expected latin1")
        return text.encode("latin1")
    if isinstance(stored, str):
        return stored.encode("latin1")
    if not isinstance(stored, bytes | bytearray):
        raise ValueError(f"found {type(stored).__name__}, expected bytes")
    return bytes(stored)


def _array(stored: Any) -> np.ndarray:
    """Returns an array of integers, no larger than its bytes in the file."""
    if isinstance(stored, list):
        if any(type(value) is not int for value in stored):
            raise ValueError("found a list of other than integers")
        return np.array(stored, np.int64)
    _, shape, dtype, fortran, data = stored.state
    kind, order = _bytes(dtype.arguments[0]), _bytes(dtype.state[1])
    numbers = (order + kind).decode("latin1")
    if not re.fullmatch("[<>=|][ui][1248]", numbers):
        raise ValueError(f"found numbers {numbers[:9]}, expected integers")
    values = np.frombuffer(_bytes(data), np.dtype(numbers))
    return values.reshape(shape, order="F" if fortran else "C")
