"""The directory of a run: its lock, what is finished, files that appear whole."""

import contextlib
import errno
import json
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..models.files import EMA_FILE, MODEL_FILE
from ..models.tensors import read_metadata
from .processes import everywhere, is_primary

LOG = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"
LOCK, SOFT_LOCK = "lock", "lock.soft"
# What file systems without locks answer: some of NFS, FUSE and clusters.
NO_LOCKS = {
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
    if hasattr(errno, name)
}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir; the lock of a process that died is free.

    Where the file system has no locks, a file that names the process is the lock.

    Raises:
      OSError: another run is in it, or it cannot be made or written to.
    """
    lock: BaseFileLock | None = None
    problem, way = "", "choose another --workdir"
    if is_primary():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = _lock(workdir)
        except Timeout as error:
            problem = "is in use by another run, expected one at a time"
            if pathlib.Path(error.lock_file).name == SOFT_LOCK:
                way = f"if none runs, on any host, remove its {SOFT_LOCK}; else {way}"
        except OSError as error:
            problem = f"found {error}, expected a directory to write to and to lock"
    # All processes stop, or the others would wait for the first one.
    if not everywhere(not problem):
        what = problem or "is in use or cannot be written to"
        raise OSError(f"workdir: {workdir}: {what}; {way}")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _lock(workdir: pathlib.Path) -> BaseFileLock:
    """Returns the lock of a workdir, held.

    Raises:
      Timeout: another process holds it.
      OSError: its file cannot be made.
    """
    lock: BaseFileLock = FileLock(workdir / LOCK)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        LOG.info(
            "%s: its file system has no locks (%s): the file %s serves as one",
            *(workdir, error.strerror, SOFT_LOCK),
        )
        lock = SoftFileLock(workdir / SOFT_LOCK)
        lock.acquire(timeout=0)
    return lock


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
        result = read_json(file)
        compared = (f"final_{headline}", f"best_{headline}", "images_per_second")
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
    """A JSON object.

    Raises:
      ValueError: a file that holds none, named.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: found no readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found {type(value).__name__}, expected an object")
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a file that is never seen half-written."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes text to a file, which appears when it is complete."""
    partial = path.with_suffix(".partial")
    # Names of files may hold bytes that are no text; no report is worth an error.
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
