"""Paths of models that users give: the file that is meant, or what is there instead."""

import os
from pathlib import Path

from .checks import expand
from .file_kinds import ENDINGS
from .output_files import EMA_FILE, MODEL_FILE

_MAX_NAMES = 8  # in a message
_MADE_BY_RUNS = ("config.json", MODEL_FILE, EMA_FILE)  # a workdir holds one of them
_NO_MODELS = (*_MADE_BY_RUNS, "summary.json", "diverged.json")


def model_file(path: str | Path, weights: str = "") -> Path:
    """Returns the file of a model: ``path``, or the exported model in a workdir.

    Args:
      path: a file of weights, or the workdir of a finished run.
      weights: "ema" for the moving average in a workdir; "" for the student itself, or
        for the moving average if the workdir holds nothing else.

    Raises:
      FileNotFoundError: there is no such file. If the directory holds several runs, the
        message names them.
      ValueError: the path is a URL, or the home directory is not known.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "model.safetensors").touch()
    ...     model_file(folder).name
    'model.safetensors'
    """
    file = path = expand(path)
    if path.is_dir():
        file = path / (EMA_FILE if weights == "ema" else MODEL_FILE)
        if not file.exists() and (path / EMA_FILE).exists():
            file = path / EMA_FILE
    if file.is_file():
        return file
    content = _describe_folder(path, file.name) if path.is_dir() else ""
    if content and describe_path(file) == "nothing":
        raise FileNotFoundError(f"{path}: {content}")
    raise FileNotFoundError(
        f"{file}: found {describe_path(file)}, expected a file of weights, or the "
        "workdir of a finished run"
    )


def describe_path(path: Path) -> str:
    """Returns a phrase that says what is at a path if it is not a file.

    Args:
      path: the path, which need not exist.

    >>> describe_path(Path("/")), describe_path(Path("/no/such/file"))
    ('a directory', 'nothing')
    """
    if path.is_dir():
        return "a directory"
    if path.is_symlink() and not path.exists():
        return f"a link to {os.readlink(path)}, which does not exist"
    return "something that is not a file" if path.exists() else "nothing"


def _describe_folder(folder: Path, missing: str) -> str:
    """Returns a sentence about a folder without the file ``missing``, or "".

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "resnet8.pth").touch()
    ...     _describe_folder(Path(folder), "model.safetensors")[:50]
    "found no model.safetensors, but ['resnet8.pth'], e"
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [path.name for path in folders if _is_run(path)]
    if runs and (folder / "config.json").exists():
        return (
            f"found no {missing} and a config.json, of a run that is not finished; the "
            "command that began it finishes it"
        )
    if runs:
        return (
            f"found no {missing}, but the runs {_shorten(runs)}, expected one run; "
            f"name it, such as {folder / runs[0]}"
        )
    if (folder / "checkpoints").is_dir():
        return (
            f"found no {missing}, but the checkpoints of a run, expected a finished "
            "run; the command that began it finishes it"
        )
    files = sorted(path.name for path in folder.iterdir() if path.suffix in ENDINGS)
    if files := [name for name in files if name not in _NO_MODELS]:
        return (
            f"found no {missing}, but {_shorten(files)}, expected the workdir of a "
            "run; to use a file of weights, name the file itself"
        )
    return ""


def _is_run(folder: Path) -> bool:
    """Returns whether a folder is the workdir of a run."""
    return any(os.path.exists(folder / name) for name in _MADE_BY_RUNS)


def _shorten(names: list[str]) -> str:
    """Returns the first names of a list, and how many follow."""
    further = len(names) - _MAX_NAMES
    return f"{names[:_MAX_NAMES]}" + (f" and {further} more" if further > 0 else "")
