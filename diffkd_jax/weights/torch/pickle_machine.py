"""Pickles that PyTorch writes, interpreted here so that nothing in them can run.

A pickle is a program for a stack machine that may import and call anything. This
machine has no import and no call: names stay names, the few that rebuild tensors are
understood, harmless ones give a value that holds nothing, all others are refused.
Every operation costs bounded time and memory, and nothing recurses into the result.
"""

import pickletools
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from .pickle_names import DTYPES, NAMES, PARAMETERS

MOST_OPERATIONS = 2_000_000  # a checkpoint with its optimizer has some 100,000
MOST_AXES = 32


class Storage(NamedTuple):
    """A flat array that is kept beside the pickle."""

    key: str
    dtype: Any
    size: int


class Tensor(NamedTuple):
    """A view of a storage: offset, shape and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Name(NamedTuple):
    """A name in the pickle, not what it stands for."""

    module: str
    name: str


class Inert:
    """Stands for values that are not needed; holds nothing."""


INERT = Inert()

DICT = Name("collections", "OrderedDict")
SIZE = Name("torch", "Size")
_OPCODES = {o.code.encode("latin-1"): o for o in pickletools.opcodes}
_MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
_MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_CONTAINERS |= {"EMPTY_TUPLE": tuple, "EMPTY_SET": Inert}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# All that have their value behind them in the file.
_LITERALS = {o.name for o in pickletools.opcodes if o.arg and not o.stack_before}
_LITERALS -= {*_MEMO_GET, *_MEMO_PUT, "GLOBAL", "INST", "PERSID", "PROTO", "FRAME"}
_LITERALS -= {"EXT1", "EXT2", "EXT4"}


def read_pickle(file: IO[bytes]) -> tuple[Any, list[Storage]]:
    """The next pickle in a file, and the storages that it refers to.

    Returns:
      Dicts (of what has a string as key), lists, tuples, numbers, strings,
      :class:`Tensor`, :class:`Name` and :data:`INERT`. Parts may be shared and may hold
      themselves: do not recurse into it.

    Raises:
      ValueError: damaged, too long, or with names that are not known.
      IndexError, KeyError, TypeError, MemoryError, OverflowError: damaged.
    """
    machine = _Machine()
    for opcode, arg in _operations(file):
        if opcode == "STOP":
            return machine.stack.pop(), machine.storages
        machine.do(opcode, arg)
    raise ValueError("found a pickle without an end, expected STOP")


def _operations(file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    try:
        for _ in range(MOST_OPERATIONS):
            opcode = _OPCODES.get(file.read(1))
            if opcode is None:
                raise ValueError("an unknown operation, or no end")
            yield opcode.name, _argument(opcode, file)
        raise ValueError(f"more than {MOST_OPERATIONS:,} operations")
    except ValueError as error:
        raise ValueError(
            f"found a pickle that is not read ({str(error)[:200]}), expected weights "
            "in a .safetensors or .pth file"
        ) from None


def _argument(opcode: Any, file: IO[bytes]) -> Any:
    if opcode.name in ("GLOBAL", "INST"):
        return _line(file), _line(file)
    if opcode.name == "STRING":
        return _line(file).strip("'\"")
    return opcode.arg and opcode.arg.reader(file)


def _line(file: IO[bytes]) -> str:
    # As it is: undoing escapes warns about unknown ones, and no name needs any.
    return file.readline().strip().decode("ascii")


class _Machine:
    """The stack of values, the places of marks in it, and what was put aside."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: list[Storage] = []

    def do(self, opcode: str, arg: Any) -> None:
        """One operation."""
        stack = self.stack
        if opcode in _LITERALS:
            stack.append(arg)
        elif opcode in _MEMO_PUT:
            self.memo[len(self.memo) if arg is None else arg] = stack[-1]
        elif opcode in _MEMO_GET:
            stack.append(self.memo[arg])
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _CONTAINERS:
            stack.append(_CONTAINERS[opcode]())
        elif opcode in _TUPLES:
            stack[-_TUPLES[opcode] :] = [tuple(stack[-_TUPLES[opcode] :])]
        elif opcode == "MARK":
            self.marks.append(len(stack))
        elif opcode == "POP":
            self.pop()
        elif opcode == "DUP":
            stack.append(stack[-1])
        elif opcode not in ("PROTO", "FRAME") and not (
            self.collect(opcode) or self.make(opcode, arg)
        ):
            raise ValueError(f"found {opcode} in a pickle, expected what weights need")

    def pop(self) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            return self.marks.pop()
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """Takes what was put on the stack since the last mark."""
        at = self.marks.pop()
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def collect(self, opcode: str) -> bool:
        """Operations of containers; whether this is one."""
        stack = self.stack
        if opcode in ("SETITEM", "APPEND"):
            items = [stack.pop() for _ in range(2 if opcode == "SETITEM" else 1)]
            _extend(stack[-1], items[::-1])
        elif opcode in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items = self.to_mark()
            _extend(stack[-1], items)
        elif opcode == "LIST":
            stack.append(self.to_mark())
        elif opcode == "TUPLE":
            stack.append(tuple(self.to_mark()))
        elif opcode == "DICT":
            items = self.to_mark()
            stack.append({})
            _extend(stack[-1], items)
        elif opcode == "FROZENSET":
            self.to_mark()
            stack.append(INERT)
        elif opcode == "POP_MARK":
            self.to_mark()
        else:
            return False
        return True

    def make(self, opcode: str, arg: Any) -> bool:
        """Operations that would import and call; whether this is one."""
        stack = self.stack
        if opcode == "GLOBAL":
            stack.append(_name(*arg))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(_name(module, name))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(_made(function, arguments))
        elif opcode == "NEWOBJ_EX":
            _, arguments, function = stack.pop(), stack.pop(), stack.pop()
            stack.append(_made(function, arguments))
        elif opcode == "INST":
            stack.append(_made(_name(*arg), tuple(self.to_mark())))
        elif opcode == "OBJ":
            function, *items = self.to_mark()
            stack.append(_made(function, tuple(items)))
        elif opcode == "BUILD":
            stack.pop()  # attributes: nothing that is kept has any
        elif opcode == "BINPERSID":
            self.storages.append(_storage(stack.pop()))
            stack.append(self.storages[-1])
        else:
            return False
        return True


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, dict):
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))


def _name(module: Any, name: Any) -> Name:
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ValueError("found a name in the pickle that is no text")
    if (module, name) not in NAMES:
        raise ValueError(
            f"found the name {f'{module}.{name}'[:120]!r} in the pickle, which is not "
            "read because it could run code; save the state dict alone, or as "
            ".safetensors"
        )
    return Name(module, name)


def _made(function: Any, arguments: Any) -> Any:
    """What the call would give, of the few that are understood."""
    if not (isinstance(function, Name) and isinstance(arguments, tuple)):
        return INERT
    if function == DICT:
        made: dict[str, Any] = {}
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        for pair in pairs:
            if isinstance(pair, tuple | list) and len(pair) == 2:
                _extend(made, list(pair))
        pairs.clear()  # a long list that many calls share would cost each of them
        return made
    if function == SIZE and arguments and isinstance(arguments[0], tuple):
        return arguments[0]
    if function.module != "torch._utils":
        return INERT
    if function.name in PARAMETERS:
        return arguments[0]
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or not len(shape) == len(strides) <= MOST_AXES:
        raise ValueError("found a tensor without a storage, or of no shape")
    if not all(map(_is_size, (offset, *shape, *strides))):
        raise ValueError("found a tensor whose shape is not of sizes")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _storage(saved: Any) -> Storage:
    if not isinstance(saved, tuple) or len(saved) < 5 or saved[0] != "storage":
        raise ValueError("found a reference in the pickle that is no storage")
    kind, key, size = saved[1], saved[2], saved[4]
    if len(saved) > 5 and saved[5] is not None:
        raise ValueError("found a reference to a part of a storage, not to a whole one")
    if not isinstance(kind, Name) or kind.name not in DTYPES:
        raise ValueError("found a storage of an unknown dtype")
    if not _is_size(size) or not isinstance(key, str | int):
        raise ValueError("found a storage without a size and key")
    return Storage(str(key), DTYPES[kind.name], size)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48
