"""Tensors in pickles that PyTorch wrote, as views of storages beside the pickle."""

from typing import IO, Any, NamedTuple

from ...io.pickles import INERT, Name, Vocabulary, read_pickle
from ..file_kinds import EXPECTED
from .pickle_names import DTYPES, NAMES, PARAMETERS

MAX_AXES = 32
_DICT = Name("collections", "OrderedDict")
_SIZE = Name("torch", "Size")


class Storage(NamedTuple):
    """A flat array that lies beside the pickle.

    Attributes:
      key: name of the storage in the file.
      dtype: NumPy type of its numbers.
      size: number of its numbers.
    """

    key: str
    dtype: Any
    size: int


class Tensor(NamedTuple):
    """A tensor, as a view of a storage.

    Attributes:
      storage: the storage.
      offset: index of the first number in the storage.
      shape: sizes of the axes.
      strides: steps of the axes in the storage, in numbers.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_content(file: IO[bytes]) -> tuple[Any, list[Storage]]:
    """Reads the next pickle in a file that PyTorch wrote.

    Args:
      file: opened for reading bytes. Afterwards its position is just after the pickle.

    Returns:
      The content, see :func:`diffkd_jax.io.pickles.read_pickle`, with :class:`Tensor`
      in the place of tensors; and the storages that these refer to.

    Raises:
      ValueError: the pickle is damaged, is too long, or holds a name that is neither
        that of a tensor nor harmless.

    >>> import io, pickle
    >>> read_content(io.BytesIO(pickle.dumps({"epoch": 3})))
    ({'epoch': 3}, [])
    """
    storages: list[Storage] = []

    def refer(saved: Any) -> Storage:
        storages.append(_storage(saved))
        return storages[-1]

    vocabulary = Vocabulary(
        names=NAMES,
        call=_rebuild,
        refer=refer,
        string=str,
        keys=(str,),
        expected=EXPECTED.removeprefix("expected "),
        advice="save the state dict alone, or as .safetensors",
    )
    return read_pickle(file, vocabulary), storages


def _rebuild(function: Name, arguments: tuple[Any, ...]) -> Any:
    """Returns the tensor, size or dictionary that a call would make.

    For calls that make other values it returns ``INERT``.
    """
    if function == _DICT:
        content: dict[str, Any] = {}
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        for pair in pairs:
            is_pair = isinstance(pair, tuple | list) and len(pair) == 2
            if is_pair and isinstance(pair[0], str):
                content[pair[0]] = pair[1]
        pairs.clear()  # a long list that many calls share would cost each of them
        return content
    if function == _SIZE and arguments and isinstance(arguments[0], tuple):
        return arguments[0]
    if function.module != "torch._utils":
        return INERT
    if function.name in PARAMETERS:
        return arguments[0]
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MAX_AXES:
        raise ValueError("found a tensor without a storage or a shape")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError("found a tensor whose shape does not consist of sizes")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(saved: Any) -> Storage:
    """Returns the storage that a reference in a pickle describes."""
    if not isinstance(saved, tuple) or len(saved) < 5 or saved[0] != "storage":
        raise ValueError("found a reference in the pickle that is not to a storage")
    kind, key, size = saved[1], saved[2], saved[4]
    if len(saved) > 5 and saved[5] is not None:
        raise ValueError("found a reference to a part of a storage, expected all of it")
    if not isinstance(kind, Name) or kind.name not in DTYPES:
        raise ValueError("found a storage of an unknown dtype")
    if not _is_size(size) or not isinstance(key, str | int):
        raise ValueError("found a storage without a size and key")
    return Storage(str(key), DTYPES[kind.name], size)


def _is_size(value: Any) -> bool:
    """Returns whether a value can be a number of elements."""
    return type(value) is int and 0 <= value < 2**48
