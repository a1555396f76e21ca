"""Reader of CIFAR's python batches, which are pickles of dictionaries of arrays.

Nothing else than such a dictionary is accepted, and nothing that a file names is
called.
"""

import io
import pathlib
import re
from typing import Any

import numpy as np

from ...io.pickles import Call, Name, Vocabulary, read_pickle
from ...io.signatures import refuse_pointer
from ..images.encoded import describe_reason

_ENCODE = Name("_codecs", "encode")  # how Python 3 writes bytes in older pickles
_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    _ENCODE,
}


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
        batch = _read(data)
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
        stored = _field(_read(data), key)
        if not isinstance(stored, list) or len(stored) != count:
            number = len(stored) if isinstance(stored, list) else "no list of"
            raise ValueError(f"found {number} names, expected a list of {count}")
        texts = (name if isinstance(name, str) else _bytes(name) for name in stored)
        return tuple(text if isinstance(text, str) else text.decode() for text in texts)
    except Exception as error:  # damaged pickles raise errors of many kinds
        raise ValueError(
            f"{file}: no names of classes: {describe_reason(error)}"
        ) from None


def _read(data: bytes) -> Any:
    """Reads a pickle without calling what it names; an array becomes a ``Call``."""
    encoded: dict[str, bytes] = {}  # a text that is used many times is encoded once

    def call(function: Name, arguments: tuple[Any, ...]) -> Any:
        if function != _ENCODE:
            return Call(*arguments)
        text, codec = arguments
        if type(text) is not str or type(codec) is not str or codec != "latin1":
            raise ValueError("found bytes of another codec, expected latin1")
        if text not in encoded:
            encoded[text] = text.encode("latin1")
        return encoded[text]

    vocabulary = Vocabulary(
        names=_NAMES,
        call=call,
        refer=_refuse_reference,
        string=lambda text: text.encode("latin1"),
        keys=(str, bytes),
        expected="a dictionary of arrays and lists",
        advice="write the batch again with arrays of NumPy alone",
    )
    return read_pickle(io.BytesIO(data), vocabulary)


def _refuse_reference(saved: Any) -> Any:
    """Refuses a reference to data outside the pickle; batches have none."""
    raise ValueError("found a reference to data outside the pickle, expected none")


def _field(batch: Any, name: bytes) -> Any:
    """Returns one entry of a batch."""
    if not isinstance(batch, dict):
        raise ValueError(f"found {type(batch).__name__}, expected a dictionary")
    for key in (name, name.decode()):
        if key in batch:
            return batch[key]
    raise ValueError(f"found no {name.decode()!r}")


def _bytes(stored: Any) -> bytes:
    """Returns bytes that are stored as bytes or as text in latin1."""
    if isinstance(stored, str):
        return stored.encode("latin1")
    if not isinstance(stored, bytes | bytearray):
        raise ValueError(f"found {type(stored).__name__}, expected bytes")
    return bytes(stored)


def _array(stored: Any) -> np.ndarray:
    """Returns an array of integers from a list, or from a ``Call`` and its bytes."""
    if isinstance(stored, list):
        if any(type(value) is not int for value in stored):
            raise ValueError(
                "found a list with other values than integers, expected integers alone"
            )
        return np.array(stored, np.int64)
    if not isinstance(stored, Call):
        raise ValueError(f"found {type(stored).__name__}, expected an array or a list")
    _, shape, dtype, fortran, data = stored.state
    kind, order = _bytes(dtype.arguments[0]), _bytes(dtype.state[1])
    numbers = (order + kind).decode("latin1")
    if not re.fullmatch("[<>=|][ui][1248]", numbers):
        raise ValueError(f"found numbers {numbers[:9]}, expected integers")
    if not all(type(size) is int for size in shape):
        raise ValueError(
            "found an array whose shape is not of integers, expected integers"
        )
    values = np.frombuffer(_bytes(data), np.dtype(numbers))
    return values.reshape(shape, order="F" if fortran else "C")
