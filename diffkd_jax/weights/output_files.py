"""Files that are written: they appear whole, and replace nothing of the user's."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from .checks import expand
from .file_kinds import ENDINGS

MODEL_FILE = "model.safetensors"  # in the workdir of a run
EMA_FILE = "model_ema.safetensors"  # its average, where one was kept
OURS = ".safetensors"
MADE_BY_RUNS = ("config.json", "summary.json", "checkpoints")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives the path of a file to write, which then takes the place of ``path``.

    It is hidden and lies beside ``path``. It is removed if the block raises.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_to_write(target: str | Path) -> Path:
    """Returns the file that a target names: itself, or that of a model in a directory.

    Args:
      target: a file that ends in .safetensors, or a directory, which need not exist.

    Raises:
      ValueError: an ending of another format, or a file where a directory is due.
    """
    path = expand(target)
    if path.is_dir():
        return path / MODEL_FILE
    ending = path.suffix.lower()
    if ending == OURS:
        return path
    if ending in ENDINGS:
        raise _other_format(path)
    if os.path.lexists(path):
        raise ValueError(
            f"--to: found the file {path}, expected a directory, or a file that ends "
            f"in {OURS}"
        )
    return path / MODEL_FILE


def check_output(path: Path, source: Path, *, force: bool = False) -> None:
    """Refuses to write weights in the place of a file that is needed.

    Args:
      path: the file to write.
      source: the file that is read.
      force: whether another existing file may be replaced.

    Raises:
      ValueError: another ending than .safetensors, a directory, the source, a file of a
        run, or a file that exists and ``force`` is not given.
    """
    if path.is_dir():
        raise ValueError(
            f"--to: found the directory {path}, expected a file; name one in it, such "
            f"as {path / 'student.safetensors'}"
        )
    if path.suffix.lower() != OURS:
        raise _other_format(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"--to: found the file {above}, expected a directory there")
    if path.exists() and source.exists() and path.samefile(source):
        raise ValueError(
            f"--to: found {path}, which is the file that is read, expected another; "
            "choose another name"
        )
    if _is_of_a_run(path):
        raise ValueError(
            f"--to: found {path}, which is a file of a run, expected another; choose "
            "another name or directory"
        )
    if os.path.lexists(path) and not force:
        raise ValueError(
            f"--to: found {path}, expected a file that is not there yet; choose "
            "another name, or replace it with --force"
        )


def _other_format(path: Path) -> ValueError:
    return ValueError(
        f"--to: found {path.name!r}, expected a name that ends in {OURS}, the format "
        "that is written"
    )


def _is_of_a_run(path: Path) -> bool:
    """Whether it is, or would be, a file that a run reads."""
    path = path.resolve()
    holds_run = lambda folder: any((folder / name).exists() for name in MADE_BY_RUNS)
    if path.name in (MODEL_FILE, EMA_FILE) and holds_run(path.parent):
        return True
    return any(
        folder.name == "checkpoints" and holds_run(folder.parent)
        for folder in path.parents
    )
