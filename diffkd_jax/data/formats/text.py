"""Texts, names and whole numbers, as other programs and systems write them."""

import codecs
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...io.signatures import refuse_pointer

MAX_LIST_BYTES = 2**20  # largest file of a list of names

# Longer marks come first: the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,20})(?:\.0*)?\s*")


def read_text(file: pathlib.Path, max_bytes: int) -> str:
    """Reads a text file in any Unicode encoding.

    Args:
      file: path of the file.
      max_bytes: largest size of the file.

    Returns:
      The text, without a byte order mark.

    Raises:
      ValueError: the file is larger, or has another encoding; the message names it.
    """
    with open(file, "rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(
            f"{file}: found more than {max_bytes} bytes, expected at most {max_bytes}"
        )
    return decode_text(data, str(file))


def decode_text(data: bytes, where: str) -> str:
    r"""Decodes UTF-8, UTF-16 or UTF-32, and removes the byte order mark, if any.

    Older encodings such as Latin-1 are refused: which one it is would be a guess, and a
    wrong guess gives wrong names without an error.

    Args:
      data: content of a text file.
      where: name of the file, for messages.

    Raises:
      ValueError: bytes of another encoding, or a pointer of Git LFS; the message begins
        with ``where``.

    >>> decode_text("sky".encode("utf-16"), "here"), decode_text(b"s\0k\0", "here")
    ('sky', 'sk')
    >>> decode_text(b"sky\ncaf\xe9\n", "here")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: here: line 2: found b'caf\xe9', which is not UTF-8, expected a text ...
    """
    refuse_pointer(data, where)
    codecs_by_mark = (codec for mark, codec in _MARKS if data.startswith(mark))
    codec = next(codecs_by_mark, None) or _unmarked(data)
    try:
        if codec == "utf-8" and b"\0" in data:
            raise UnicodeDecodeError(codec, data, data.index(b"\0"), len(data), "zero")
        text = data.decode(codec)
        if "\0" in text:  # UTF-32 without a mark
            raise UnicodeDecodeError(codec, data, 0, len(data), "zero")
        return text
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        before = data[max(0, error.start - 30) : error.start].rpartition(b"\n")[2]
        after = data[error.start : error.start + 30].partition(b"\n")[0]
        raise ValueError(
            f"{where}: line {number}: found {(before + after).strip()!r}, which is not "
            f"{codec.upper()[:6].rstrip('-S')}, expected a text in UTF-8 or UTF-16; "
            "save the file as UTF-8"
        ) from None


def _unmarked(data: bytes) -> str:
    """Returns the encoding of a text without a byte order mark.

    In UTF-16, a text of mostly Latin letters has a zero in every second byte.
    """
    for codec, zeros in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if len(data) > 1 and len(data) % 2 == 0 and 2 * zeros.count(0) > len(zeros):
            return codec
    return "utf-8"


def normalise_name(name: str) -> str:
    r"""Returns a name in Unicode's normal form NFC, in which names are compared.

    >>> normalise_name("cafe\u0301") == "caf\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def make_name_finder(names: Iterable[str]) -> Callable[[str], str | None]:
    r"""Returns a function that finds a name, exactly or in another normal form.

    The function returns the name as it is in ``names``. It returns None for a missing
    name, and if several names share the normal form.

    Args:
      names: the names to search.

    >>> find = make_name_finder(["cafe\u0301", "dog"])
    >>> find("dog"), find("caf\u00e9") == "cafe\u0301", find("cat")
    ('dog', True, None)
    """
    exact = set(names)
    forms: dict[str, list[str]] = {}
    for name in exact:
        forms.setdefault(normalise_name(name), []).append(name)

    def find(name: str) -> str | None:
        if name in exact:
            return name
        candidates = forms.get(normalise_name(name), [])
        return candidates[0] if len(candidates) == 1 else None

    return find


def are_same_names(first: Sequence[str], second: Sequence[str]) -> bool:
    r"""Returns whether two lists hold the same names in order, in any normal form.

    >>> are_same_names(["cafe\u0301"], ["caf\u00e9"])
    True
    """
    return [*map(normalise_name, first)] == [*map(normalise_name, second)]


def unique_names(names: Iterable[str]) -> list[str]:
    r"""Returns each name once, sorted.

    A name that occurs in several normal forms is returned in NFC.

    >>> unique_names(["dog", "cafe\u0301", "dog", "caf\u00e9"]) == ["caf\u00e9", "dog"]
    True
    """
    forms: dict[str, set[str]] = {}
    for name in names:
        forms.setdefault(normalise_name(name), set()).add(name)
    return sorted(form if len(s) > 1 else min(s) for form, s in forms.items())


def parse_whole_number(value: Any) -> int | None:
    """Returns a whole number that may be written as a float or as text; otherwise None.

    >>> [parse_whole_number(x) for x in (3, 3.0, "007", " 3.0", 3.5, True)]
    [3, 3, 7, 3, None, None]
    """
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def printable_name(name: str) -> str:
    r"""Returns a file's name as text that can be printed, other bytes as ``\xff``.

    >>> printable_name("caf\udce9")
    'caf\\xe9'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
