"""What a file is that should hold weights, told by how it begins."""

import os
import re
from pathlib import Path
from typing import NamedTuple

START = 4096  # bytes that are looked at
MOST_NAMED = 8
RUN = ("config.json", "model.safetensors", "model_ema.safetensors")  # one makes a run
OF_RUNS = (*RUN, "summary.json", "diverged.json")
ENDINGS = (
    *(".bin", ".ckpt", ".gguf", ".h5", ".hdf5", ".index", ".json", ".keras"),
    *(".msgpack", ".npy", ".npz", ".onnx", ".pb", ".pkl", ".pt", ".pth"),
    *(".safetensors", ".tar", ".tflite", ".zip"),
)
EXPECTED = "expected weights in a .safetensors or .pth file"
AGAIN = "download it again"
UNPACK = "unpack it and name the file of weights inside"
CONVERT = "save its weights as .safetensors or .pth"


class Kind(NamedTuple):
    """What a file is.

    Attributes:
      name: a phrase for messages, "an empty file".
      advice: how to go on; "" where there is nothing to say.
      holds_weights: whether it may be weights that are read here.
      is_damaged: whether it may be what a damaged disk leaves of any file.
    """

    name: str
    advice: str = ""
    holds_weights: bool = False
    is_damaged: bool = False


# Position of a mark in the file, the mark, and what has it there.
MARKS = (
    (0, b"PK\x03\x04", Kind("a zip archive", holds_weights=True)),
    (0, b"PK", Kind("a zip archive without entries", AGAIN)),
    (0, b"\x80", Kind("a pickle", holds_weights=True)),
    (0, b"version https://git-lfs", Kind("a pointer of Git LFS", "git lfs pull")),
    (0, b"\x89HDF", Kind("a file of HDF5, as Keras writes it", CONVERT)),
    (0, b"\x93NUMPY", Kind("an array of NumPy (.npy)", CONVERT)),
    (0, b"GGUF", Kind("a file of GGUF", CONVERT)),
    (4, b"TFL3", Kind("a model of TensorFlow Lite", CONVERT)),
    (0, b"\x1f\x8b", Kind("a gzip archive", UNPACK)),
    (0, b"BZh", Kind("a bzip2 archive", UNPACK)),
    (0, b"\xfd7zXZ", Kind("an xz archive", UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a zstd archive", UNPACK)),
    (0, b"7z\xbc\xaf", Kind("a 7z archive", UNPACK)),
    (0, b"Rar!", Kind("a RAR archive", UNPACK)),
    (257, b"ustar", Kind("a tar archive", UNPACK)),
    (0, b"\x89PNG", Kind("an image (PNG)")),
    (0, b"\xff\xd8\xff", Kind("an image (JPEG)")),
    (0, b"%PDF", Kind("a PDF document")),
)
# Endings of formats whose files begin with nothing to know them by.
NAMES = (
    (r"\.msgpack$", Kind("a file of MessagePack, as Flax writes it", CONVERT)),
    (r"\.(index|data-\d+-of-\d+)$", Kind("a checkpoint of TensorFlow", CONVERT)),
    (r"\.(onnx|pb)$", Kind("a model of ONNX or TensorFlow", CONVERT)),
)
SAFETENSORS = Kind("a .safetensors file", holds_weights=True)
PROTOBUF = Kind("a model of ONNX or TensorFlow (protobuf)", CONVERT)
INDEX = Kind(
    "an index of weights that are split over several files (shards)",
    "save them as one file",
)


def check_weights(path: Path) -> Kind:
    """Returns what a file is, if it may be weights.

    Raises:
      ValueError: it is something else; says what.
      OSError: it cannot be read.
    """
    kind = kind_of(path)
    if not kind.holds_weights:
        advice = f"; {kind.advice}" if kind.advice else ""
        raise ValueError(f"{path}: found {kind.name}, {EXPECTED}{advice}")
    return kind


def kind_of(path: Path) -> Kind:
    """Returns what a file is, without reading more than its beginning.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        kind = kind_of_start(file.read(START))
    if kind.is_damaged and not kind.advice:  # bytes that are not known
        named = (kind for ending, kind in NAMES if re.search(ending, path.name))
        kind = next(named, kind)
    return kind


def kind_of_start(start: bytes) -> Kind:
    r"""Returns what a file is whose first bytes are these.

    >>> kind_of_start(b"").name
    'an empty file'
    >>> kind_of_start(b"<!DOCTYPE html><html>").name
    'a web page'
    >>> kind_of_start(b"\0\1\2\3 and so on").name
    'a file that begins with the bytes 00 01 02 03 20 61 6e 64'
    """
    if not start.strip(b"\0"):
        name = "a file that begins with zeros" if start else "an empty file"
        return Kind(name, AGAIN, is_damaged=True)
    if start[8:9] == b"{" and b"\0" in start[:8]:
        return SAFETENSORS
    for position, mark, kind in MARKS:
        if start[position:].startswith(mark):
            return kind
    text = _text(start)
    if text:
        return _kind_of_text(text)
    # A number of a version, then a text or a message: how these files begin.
    if re.match(rb"\x08[\x01-\x20][\x12\x1a\x3a]", start):
        return PROTOBUF
    shown = start[:8].hex(" ")
    return Kind(f"a file that begins with the bytes {shown}", is_damaged=True)


def what_is_in(folder: Path, wanted: str) -> str:
    """Returns what a folder holds in place of the file of a model, "" for nothing.

    Args:
      folder: it exists.
      wanted: name of the file that is not there.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [path.name for path in inside if any(os.path.exists(path / n) for n in RUN)]
    if runs and (folder / "config.json").exists():
        return (
            f"found no {wanted} and a config.json, of a run that is not finished; the "
            "command that began it finishes it"
        )
    if runs:
        return (
            f"found no {wanted}, but the runs {_few(runs)}, expected one run; "
            f"name it, such as {folder / runs[0]}"
        )
    if (folder / "checkpoints").is_dir():
        return (
            f"found no {wanted}, but the checkpoints of a run, expected a finished "
            "run; the command that began it finishes it"
        )
    files = sorted(p.name for p in folder.iterdir() if p.suffix in ENDINGS)
    if files := [name for name in files if name not in OF_RUNS]:
        return (
            f"found no {wanted}, but {_few(files)}, expected the workdir of a "
            "run; a file of weights is named itself"
        )
    return ""


def _few(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return f"{names[:MOST_NAMED]}" + (f" and {more} more" if more > 0 else "")


def shard_note(path: Path) -> str:
    """Returns a remark for messages if a file's name says that it is one of several.

    >>> shard_note(Path("model-00001-of-00002.safetensors"))
    '\\nit is one of several shards; save them as one file'
    >>> shard_note(Path("resnet50-0676ba61.pth"))
    ''
    """
    is_shard = re.search(r"-\d+-of-\d+\.", path.name)
    return "\nit is one of several shards; save them as one file" if is_shard else ""


def what_is_at(path: Path) -> str:
    """Returns a phrase for a path at which there is no file to read.

    >>> what_is_at(Path("/")), what_is_at(Path("/no/such/file"))
    ('a directory', 'nothing')
    """
    if path.is_dir():
        return "a directory"
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, where nothing is"
    return "something that is not a file" if path.exists() else "nothing"


def _text(start: bytes) -> str:
    """The beginning as text; "" where it is not text."""
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
    if text.startswith("<"):
        page = re.match(r"<(!doctype html|html|head|body)", text, re.IGNORECASE)
        return Kind(
            "a web page" if page else "a text in XML",
            "a download that failed leaves such a file, and one that needs a login",
        )
    if "annex/objects/" in text:
        return Kind("a pointer of git-annex", "git annex get")
    if re.match(r"outs:\s+- md5:", text):
        return Kind("a pointer of DVC", "dvc pull")
    if text[0] in "{[":
        return INDEX if '"weight_map"' in text else Kind("a text in JSON")
    first = text.splitlines()[0][:40]
    return Kind(f"a text that begins with {first!r}", AGAIN)
