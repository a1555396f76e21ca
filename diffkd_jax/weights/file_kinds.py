"""The kind of a file that should hold weights, from its first bytes and its name."""

import re
from pathlib import Path
from typing import NamedTuple

from ..io.signatures import name_format

ENDINGS = (
    *(".bin", ".ckpt", ".gguf", ".h5", ".hdf5", ".index", ".json", ".keras"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".pb", ".pkl", ".pt", ".pth"),
    *(".safetensors", ".tar", ".tflite", ".zip"),
)
EXPECTED = "expected weights in a .safetensors or .pth file"
_START = 4096  # number of bytes that are looked at
_AGAIN = "download it again"
_LOGIN = "a download that failed leaves such a file, and one that needs a login"
_UNPACK = "unpack it and name the file of weights inside"
_CONVERT = "save its weights as .safetensors or .pth"


class Kind(NamedTuple):
    """The kind of a file.

    Attributes:
      name: a phrase for messages, such as "an empty file".
      advice: how to go on, for messages, or "" for no advice.
      holds_weights: whether this package can read weights from files of this kind.
      is_damaged: whether the file may be a damaged file of any kind, because its first
        bytes are zeros or unknown, or there are none.
    """

    name: str
    advice: str = ""
    holds_weights: bool = False
    is_damaged: bool = False


SAFETENSORS = Kind("a .safetensors file", holds_weights=True)
_ZIP = Kind("a zip archive", holds_weights=True)
_PICKLE = Kind("a pickle", holds_weights=True)
_INDEX = Kind(
    "an index of weights that are split over several files (shards)",
    "save them as one file",
)
_PROTOBUF = Kind("a model of ONNX or TensorFlow (protobuf)", _CONVERT)
# Formats that files of weights have, by their first bytes.
_FIRST_BYTES = (
    (rb"PK\x03\x04", _ZIP),
    (rb"PK", Kind("a zip archive without entries", _AGAIN)),
    (rb"\x80", _PICKLE),
    (rb"GGUF", Kind("a file of GGUF", _CONVERT)),
    (rb".{4}TFL3", Kind("a model of TensorFlow Lite", _CONVERT)),
)
# These files begin with a version number, then a text or a message.
_PROTOBUF_START = rb"\x08[\x01-\x20][\x12\x1a\x3a]"
# Endings of formats whose first bytes tell nothing.
_NAME_ENDINGS = (
    (r"\.msgpack$", Kind("a file of MessagePack, as Flax writes it", _CONVERT)),
    (r"\.(index|data-\d+-of-\d+)$", Kind("a checkpoint of TensorFlow", _CONVERT)),
    (r"\.(onnx|pb)$", Kind("a model of ONNX or TensorFlow", _CONVERT)),
)
# Advice for kinds of files that other modules name.
_ADVICE = {
    "a web page (HTML)": _LOGIN,
    "an XML text": _LOGIN,
    "an HDF5 file": _CONVERT,  # Keras writes such files
    "a NumPy array (.npy)": _CONVERT,
}


def check_kind(path: Path) -> Kind:
    r"""Returns the kind of a file, and raises an error if it cannot hold weights.

    Args:
      path: the file.

    Raises:
      ValueError: the file is something else; the message says what.
      OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "resnet8.pth")
    ...     _ = path.write_bytes(b"PK\3\4 and so on")
    ...     check_kind(path).name
    'a zip archive'
    """
    kind = find_kind(path)
    if not kind.holds_weights:
        advice = f"; {kind.advice}" if kind.advice else ""
        raise ValueError(f"{path}: found {kind.name}, {EXPECTED}{advice}")
    return kind


def find_kind(path: Path) -> Kind:
    r"""Returns the kind of a file from its first bytes and its name.

    Args:
      path: the file.

    Raises:
      OSError: the file cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.ckpt.index")
    ...     _ = path.write_bytes(b"\1\2\3\4")
    ...     find_kind(path).name
    'a checkpoint of TensorFlow'
    """
    with path.open("rb") as file:
        kind = _kind_of_start(file.read(_START))
    if kind.is_damaged and not kind.advice:  # the bytes are not known
        kinds = (kind for ending, kind in _NAME_ENDINGS if re.search(ending, path.name))
        kind = next(kinds, kind)
    return kind


def _kind_of_start(start: bytes) -> Kind:
    r"""Returns the kind of a file that begins with the given bytes.

    Args:
      start: the first 4096 bytes of the file, or all of a shorter one.

    >>> _kind_of_start(b"").name
    'an empty file'
    >>> _kind_of_start(b"<!DOCTYPE html><html>").name
    'a web page (HTML)'
    >>> _kind_of_start(b"\0\1\2\3 and so on").name
    'a file that begins with the bytes 00 01 02 03 20 61 6e 64'
    """
    if not start.strip(b"\0"):
        name = "a file that begins with zeros" if start else "an empty file"
        return Kind(name, _AGAIN, is_damaged=True)
    if start[8:9] == b"{" and b"\0" in start[:8]:
        return SAFETENSORS
    for pattern, kind in _FIRST_BYTES:
        if re.match(pattern, start, re.DOTALL):
            return kind
    text = _decode(start)
    if text[:1] in ("{", "[") and '"weight_map"' in text:
        return _INDEX
    if name := name_format(start):
        is_archive = name.endswith(" archive")
        return Kind(name, _UNPACK if is_archive else _ADVICE.get(name, ""))
    if text:
        return _kind_of_text(text)
    if re.match(_PROTOBUF_START, start):
        return _PROTOBUF
    shown = start[:8].hex(" ")
    return Kind(f"a file that begins with the bytes {shown}", is_damaged=True)


def shard_note(path: Path) -> str:
    r"""Returns a hint for messages if a file's name marks it as a shard, otherwise "".

    Args:
      path: the file.

    >>> shard_note(Path("model-00001-of-00002.safetensors"))
    '\nit is one of several shards; save them as one file'
    >>> shard_note(Path("resnet50-0676ba61.pth"))
    ''
    """
    is_shard = re.search(r"-\d+-of-\d+\.", path.name)
    return "\nit is one of several shards; save them as one file" if is_shard else ""


def _decode(start: bytes) -> str:
    """Returns the beginning of a text, or "" for bytes that are not text."""
    for cut in range(4):  # bytes of a letter that goes on behind the end
        try:
            text = start[: len(start) - cut].decode("utf-8-sig")
            break
        except UnicodeDecodeError:
            continue
    else:
        return ""
    is_text = all(letter.isprintable() or letter in "\n\r\t\f" for letter in text)
    return text.strip() if is_text else ""


def _kind_of_text(text: str) -> Kind:
    """Returns the kind of a text file of no known format."""
    if text.startswith("<"):
        return Kind("an XML text", _LOGIN)
    if re.match(r"outs:\s+- md5:", text):
        return Kind("a pointer of DVC", "dvc pull")
    if text[0] in "{[":
        return Kind("a JSON text")
    first_line = text.splitlines()[0][:40]
    return Kind(f"a text that begins with {first_line!r}", _AGAIN)
