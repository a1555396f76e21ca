"""Pickles of other programs, interpreted so that nothing in them can run.

A pickle is a program for a stack machine that may import and call anything. This
machine neither imports nor calls. A name in a pickle stays a name. The caller says
which names may occur, and which value stands for a call of each. Every other name is
refused. Each operation costs bounded time and memory, and nothing recurses into the
result.
"""

import pickletools
from collections.abc import Callable, Container
from typing import IO, Any, NamedTuple

from .pickle_operations import read_operations


class Name(NamedTuple):
    """The name of a function or class in a pickle, not the function itself."""

    module: str
    name: str


class Inert:
    """A stand-in for a value that is not needed; it holds nothing."""


INERT = Inert()


class Call:
    """A call that a pickle asks for, and that is not made.

    Args:
      *arguments: the arguments of the call.

    Attributes:
      arguments: the arguments of the call.
      state: the attributes that the pickle sets on the result, or ``()``.
    """

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = ()


class Vocabulary(NamedTuple):
    """The rules by which :func:`read_pickle` reads one kind of pickle.

    Attributes:
      names: pairs ``(module, name)`` of the functions and classes that the pickle may
        mention. A pickle that mentions another one is refused.
      call: ``(name, arguments) -> value``, returns the value to put in place of a call
        that the pickle asks for. The call itself is never made.
      refer: ``saved -> value``, returns the value to put in place of a reference to
        data that the file stores outside the pickle. ``saved`` is the content of the
        reference.
      string: ``text -> value``, converts a byte string that Python 2 wrote. ``text``
        has one character for each byte.
      keys: types of dictionary keys that are read. Entries with keys of other types are
        dropped.
      expected: description of a valid pickle, for messages, such as "a dictionary of
        arrays".
      advice: how to go on after the pickle is refused, for messages.
    """

    names: Container[tuple[str, str]]
    call: Callable[[Name, tuple[Any, ...]], Any]
    refer: Callable[[Any], Any]
    string: Callable[[str], Any]
    keys: tuple[type, ...]
    expected: str
    advice: str


_MEMO_GET = {"GET", "BINGET", "LONG_BINGET"}
_MEMO_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_CONTAINERS: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_CONTAINERS |= {"EMPTY_TUPLE": tuple, "EMPTY_SET": Inert}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Operations whose value lies behind them in the file.
_LITERALS = {o.name for o in pickletools.opcodes if o.arg and not o.stack_before}
_LITERALS -= {*_MEMO_GET, *_MEMO_PUT, "GLOBAL", "INST", "PERSID", "PROTO", "FRAME"}
_LITERALS -= {"EXT1", "EXT2", "EXT4"}


def read_pickle(file: IO[bytes], vocabulary: Vocabulary) -> Any:
    """Reads the next pickle in a file.

    Args:
      file: opened for reading bytes. Afterwards it stands at the first byte after the
        pickle.
      vocabulary: the rules for this kind of pickle.

    Returns:
      Dictionaries, lists, tuples, numbers, strings, bytes, :class:`Name`,
      :data:`INERT`, and the values that ``vocabulary`` gives. Parts may be shared and
      may contain themselves: do not recurse into the result.

    Raises:
      ValueError: the pickle is damaged, is too long, or holds another name.
      IndexError: the pickle is damaged.
      KeyError: the pickle is damaged.
      TypeError: the pickle is damaged.
      MemoryError: the pickle is damaged.
      OverflowError: the pickle is damaged.

    >>> import io, pickle
    >>> refuse = lambda *arguments: INERT
    >>> numbers = Vocabulary((), refuse, refuse, str, (str,), "numbers", "")
    >>> read_pickle(io.BytesIO(pickle.dumps({"a": [1, 2]})), numbers)
    {'a': [1, 2]}
    """
    machine = _Machine(vocabulary)
    for opcode, argument in read_operations(file, vocabulary.expected):
        if opcode == "STOP":
            return machine.stack.pop()
        machine.do(opcode, argument)
    raise ValueError("found a pickle without an end, expected STOP")


class _Machine:
    """The stack of values, the positions of its marks, and the values put aside."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def do(self, opcode: str, argument: Any) -> None:
        """Applies one operation to the stack."""
        stack = self.stack
        if opcode in _STRINGS:
            stack.append(self.vocabulary.string(argument))
        elif opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _MEMO_PUT:
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif opcode in _MEMO_GET:
            stack.append(self.memo[argument])
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
            self.collect(opcode) or self.make(opcode, argument)
        ):
            expected = self.vocabulary.expected
            raise ValueError(f"found {opcode} in a pickle, expected {expected}")

    def pop(self) -> Any:
        """Takes the topmost value or mark off the stack."""
        if self.marks and self.marks[-1] == len(self.stack):
            return self.marks.pop()
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Takes the values since the last mark off the stack."""
        position = self.marks.pop()
        items = self.stack[position:]
        del self.stack[position:]
        return items

    def collect(self, opcode: str) -> bool:
        """Applies an operation on a container; returns False for any other one."""
        stack = self.stack
        if opcode in ("SETITEM", "APPEND"):
            items = [stack.pop() for _ in range(2 if opcode == "SETITEM" else 1)]
            self.extend(stack[-1], items[::-1])
        elif opcode in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items = self.pop_to_mark()
            self.extend(stack[-1], items)
        elif opcode == "LIST":
            stack.append(self.pop_to_mark())
        elif opcode == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif opcode == "DICT":
            items = self.pop_to_mark()
            stack.append({})
            self.extend(stack[-1], items)
        elif opcode == "FROZENSET":
            self.pop_to_mark()
            stack.append(INERT)
        elif opcode == "POP_MARK":
            self.pop_to_mark()
        else:
            return False
        return True

    def make(self, opcode: str, argument: Any) -> bool:
        """Applies an operation that would import or call.

        Returns False for any other operation.
        """
        stack = self.stack
        if opcode == "GLOBAL":
            stack.append(self.name(*argument))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self.name(module, name))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self.call(function, arguments))
        elif opcode == "NEWOBJ_EX":
            _, arguments, function = stack.pop(), stack.pop(), stack.pop()
            stack.append(self.call(function, arguments))
        elif opcode == "INST":
            stack.append(self.call(self.name(*argument), tuple(self.pop_to_mark())))
        elif opcode == "OBJ":
            function, *items = self.pop_to_mark()
            stack.append(self.call(function, tuple(items)))
        elif opcode == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], Call):  # nothing else has attributes
                stack[-1].state = state
        elif opcode == "BINPERSID":
            stack.append(self.vocabulary.refer(stack.pop()))
        else:
            return False
        return True

    def extend(self, target: Any, items: list[Any]) -> None:
        """Adds items to a list, or pairs of them to a dictionary."""
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, dict):
            pairs = zip(items[::2], items[1::2], strict=True)
            keys = self.vocabulary.keys
            target.update((key, value) for key, value in pairs if isinstance(key, keys))

    def name(self, module: Any, name: Any) -> Name:
        """Returns a name of the vocabulary; refuses any other."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("found a name in the pickle that is not text")
        if (module, name) not in self.vocabulary.names:
            raise ValueError(
                f"found the name {f'{module}.{name}'[:120]!r} in the pickle, which is "
                f"not read because it could run code; {self.vocabulary.advice}"
            )
        return Name(module, name)

    def call(self, function: Any, arguments: Any) -> Any:
        """Returns the value that stands for a call."""
        if isinstance(function, Name) and isinstance(arguments, tuple):
            return self.vocabulary.call(function, arguments)
        return INERT
