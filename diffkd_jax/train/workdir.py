"""The directory of a run: its lock, what is finished, files that appear whole."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout

from .. import valid_json
from ..models.files import EMA_FILE, MODEL_FILE
from ..models.tensors import read_metadata
from .processes import everywhere, is_primary

LOG = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir; the lock of a process that died is free.

    Raises:
      OSError: another run is in it, or it cannot be made or written to.
    """
    lock, problem = FileLock(workdir / "lock"), ""
    if is_primary():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            problem = "is in use by another run, expected one at a time"
        except OSError as error:
            problem = f"found {error}, expected a directory that can be written to"
    # All processes stop, or the others would wait for the first one.
    if not everywhere(not problem):
        what = problem or "is in use or cannot be written to"
        raise OSError(f"workdir: {workdir}: {what}; choose another --workdir")
    try:
        yield
    finally:
        lock.release()


def read_summary(workdir: pathlib.Path, headline: str) -> dict[str, Any] | None:
    """What a finished run wrote last; None if anything of it is to be made again.

    Args:
      workdir: of the run.
      headline: the score that comparisons read.

    Raises:
      ValueError: something is missing, and no checkpoint is there to make it from.
    """
    file = workdir / SUMMARY
    if not file.exists():
        return None
    result: dict[str, Any] = {}
    problems = []
    try:
        compared = (f"final_{headline}", f"best_{headline}", "images_per_second")
        result = valid_json.undefined_as_nan(read_json(file))
        lacking = [n for n in compared if not isinstance(result.get(n), int | float)]
        problems += [f"{file}: found no number {name}" for name in lacking]
    except ValueError as error:
        problems.append(str(error))
    averaged = f"final_ema_{headline}" in result
    names = [MODEL_FILE, *([EMA_FILE] if averaged else [])]
    broken = [n for n in names if not _is_whole(workdir / n)]
    problems += [f"{workdir / name}: found no whole file" for name in broken]
    kept = has_checkpoints(workdir)
    if problems and not kept:
        raise ValueError(
            f"{problems[0]}, of a finished run without checkpoints to make it from; "
            "put it back or choose another --workdir"
        )
    if kept and not _is_whole(workdir / REPORT):
        problems.append(f"{workdir / REPORT}: found no whole file")
    for problem in problems:
        LOG.warning("made again: %s", problem)
    return None if problems else result


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Whether it holds a checkpoint, finished or not."""
    return any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))


def _is_whole(file: pathlib.Path) -> bool:
    if file.suffix != ".safetensors":
        return file.exists() and file.stat().st_size > 0
    try:
        read_metadata(file)  # which compares the length with the header
    except (ValueError, OSError):
        return False
    return True


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; numbers that were undefined when written are None.

    Raises:
      ValueError: a file that holds none, named.
    """
    try:
        value = valid_json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: found no readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found {type(value).__name__}, expected an object")
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes valid JSON to a file that is never seen half-written."""
    write_whole(path, valid_json.dumps(value, indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes text to a file, which appears when it is complete."""
    partial = path.with_suffix(".partial")
    # Names of files may hold bytes that are no text; no report is worth an error.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
