"""The operations of a pickle, read from its file and not carried out."""

import codecs
import pickletools
import re
from collections.abc import Iterator
from typing import IO, Any

MAX_OPERATIONS = 2_000_000  # a checkpoint with its optimizer has some 100,000
_OPCODES = {o.code.encode("latin-1"): o for o in pickletools.opcodes}
# The only escapes that Python 2 wrote in a text.
_ESCAPED = re.compile(rb"(?:[^\\]|\\(?:[\\'\"nrt]|x[0-9a-f]{2}))*+", re.DOTALL)


def read_operations(file: IO[bytes], expected: str) -> Iterator[tuple[str, Any]]:
    """Yields the name and the argument of each operation of a pickle.

    Args:
      file: opened for reading bytes, at the beginning of a pickle.
      expected: what the pickle should be, for messages.

    Raises:
      ValueError: there is an unknown operation or no end, or there are more than
        :data:`MAX_OPERATIONS`.

    >>> import io, pickle
    >>> file = io.BytesIO(pickle.dumps(1, 2))
    >>> [name for name, _ in read_operations(file, "a number")]
    ['PROTO', 'BININT1', 'STOP']
    """
    try:
        for _ in range(MAX_OPERATIONS):
            opcode = _OPCODES.get(file.read(1))
            if opcode is None:
                raise ValueError("an unknown operation, or no end")
            yield opcode.name, _read_argument(opcode, file)
            if opcode.name == "STOP":
                return
        raise ValueError(f"more than {MAX_OPERATIONS:,} operations")
    except ValueError as error:
        raise ValueError(
            f"found a pickle that is not read ({str(error)[:200]}), expected {expected}"
        ) from None


def _read_argument(opcode: Any, file: IO[bytes]) -> Any:
    """Reads the argument that lies behind an operation in the file."""
    if opcode.name in ("GLOBAL", "INST"):
        return _read_line(file), _read_line(file)
    if opcode.name == "STRING":
        return _unquote(file.readline().strip())
    return opcode.arg and opcode.arg.reader(file)


def _read_line(file: IO[bytes]) -> str:
    """Reads a line of ASCII text without its end."""
    return file.readline().strip().decode("ascii")


def _unquote(line: bytes) -> str:
    """Returns the text in a quoted line, each byte as the letter of its number."""
    quote = line[:1]
    if len(line) > 1 and quote in (b"'", b'"') and line.endswith(quote):
        line = line[1:-1]
    # Python would warn about an escape that it does not know.
    if b"\\" in line and _ESCAPED.fullmatch(line):
        return codecs.escape_decode(line)[0].decode("latin-1")
    return line.decode("ascii")
