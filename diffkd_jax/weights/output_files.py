"""Writing of files, which appear when complete and do not replace files of the user."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .checks import expand
from .file_kinds import ENDINGS

MODEL_FILE = "model.safetensors"  # in the workdir of a run
EMA_FILE = "model_ema.safetensors"  # the moving average, if the run keeps one
_ENDING = ".safetensors"
_MADE_BY_RUNS = ("config.json", "summary.json", "checkpoints")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to, as a context manager.

    When the block ends, the temporary file replaces ``path``. If the block raises an
    error, the temporary file is removed and ``path`` stays unchanged. The temporary
    file is hidden and in the same folder as ``path``.

    Args:
      path: the file that should appear when it is complete.

    Yields:
      The path to write to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with appearing(Path(folder, "a.txt")) as partial:
    ...         _ = partial.write_text("complete")
    ...     os.listdir(folder)
    ['a.txt']
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_to_write(target: str | Path) -> Path:
    """Returns the file to write for a target.

    It is the target itself, or ``model.safetensors`` if the target is a directory.

    Args:
      target: a file that ends in .safetensors; or a directory, which need not exist.

    Raises:
      ValueError: the target has the ending of another format, or is an existing file
        that does not end in .safetensors.

    >>> file_to_write("runs/imported").as_posix()
    'runs/imported/model.safetensors'
    """
    path = expand(target)
    if path.is_dir():
        return path / MODEL_FILE
    ending = path.suffix.lower()
    if ending == _ENDING:
        return path
    if ending in ENDINGS:
        raise _other_format(path)
    if os.path.lexists(path):
        raise ValueError(
            f"--to: found the file {path}, expected a directory, or a file that ends "
            f"in {_ENDING}"
        )
    return path / MODEL_FILE


def check_output(path: Path, source: Path, *, force: bool = False) -> None:
    """Raises an error if writing weights would replace a file that is needed.

    Args:
      path: the file to write.
      source: the file from which the weights are read.
      force: if true, any other existing file may be replaced.

    Raises:
      ValueError: ``path`` is a directory, the source or a file of a run, does not end
        in .safetensors, or exists although ``force`` is false.

    >>> check_output(Path("student.safetensors"), Path("run/model.safetensors"))
    """
    if path.is_dir():
        raise ValueError(
            f"--to: found the directory {path}, expected a file; name one in it, such "
            f"as {path / 'student.safetensors'}"
        )
    if path.suffix.lower() != _ENDING:
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


def file_digest(path: Path) -> str:
    """Returns the SHA-256 digest of a file, in hexadecimal.

    Args:
      path: the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "empty").write_bytes(b"")
    ...     file_digest(Path(folder, "empty"))[:8]
    'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes a ``.safetensors`` file, which appears when it is complete.

    The file has the permissions of any other new file. Its folder is created if needed.

    Args:
      path: the file to write.
      arrays: name to array.
      metadata: texts for the header.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_arrays(Path(folder, "a.safetensors"), {"w": np.ones(2)}, {})
    ...     os.listdir(folder)
    ['a.safetensors']
    """
    # save_file writes the memory of an array as it lies, whatever its strides.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as partial:
        partial.write_bytes(b"")
        # save_file replaces it by a file that only its owner may read.
        mode = partial.stat().st_mode
        save_file(contiguous, partial, metadata=metadata)
        partial.chmod(mode)


def _other_format(path: Path) -> ValueError:
    """Returns the error for a name that ends otherwise than in .safetensors."""
    return ValueError(
        f"--to: found {path.name!r}, expected a name that ends in {_ENDING}, the "
        "format that is written"
    )


def _is_of_a_run(path: Path) -> bool:
    """Returns whether a path is, or would be, a file that a run reads."""
    path = path.resolve()
    holds_run = lambda folder: any((folder / name).exists() for name in _MADE_BY_RUNS)
    if path.name in (MODEL_FILE, EMA_FILE) and holds_run(path.parent):
        return True
    return any(
        folder.name == "checkpoints" and holds_run(folder.parent)
        for folder in path.parents
    )
