"""Checks which files are in the directory of a run, and reads and writes JSON there."""

import logging
import os
import pathlib
from typing import Any

from ...io import valid_json
from ...weights.file_kinds import SAFETENSORS, find_kind
from ...weights.output_files import EMA_FILE, MODEL_FILE, appearing
from ...weights.weights import is_ours, open_weights
from ..cluster.processes import broadcast_first

LOG = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"
RECORD, ROWS = "config.json", "metrics.jsonl"
FOLDERS = ("checkpoints", "events", "plots")
RECORD_SECTIONS = {"data", "student", "train"}  # sections in every record of a run


def read_summary(workdir: pathlib.Path, headline: str) -> dict[str, Any] | None:
    """Returns the summary of a finished run; None if the run has work left to do.

    Args:
      workdir: directory of the run.
      headline: name of the score that comparisons read.

    Returns:
      The content of ``summary.json``. None if the run is not finished. None too if a
      file of its results is missing or damaged and can be made again from a checkpoint.

    Raises:
      ValueError: a file is missing or damaged, and there is no checkpoint to make it
        from.
    """
    file = workdir / SUMMARY
    if not file.exists():
        return None
    result: dict[str, Any] = {}
    problems = []
    try:
        needed = (f"final_{headline}", f"best_{headline}", "images_per_second")
        result = valid_json.undefined_as_nan(read_json_object(file))
        missing = [n for n in needed if not isinstance(result.get(n), int | float)]
        problems += [f"{file}: found no number {name}" for name in missing]
    except ValueError as error:
        problems.append(str(error))
    has_average = f"final_ema_{headline}" in result
    names = [MODEL_FILE, *([EMA_FILE] if has_average else [])]
    broken = [n for n in names if not _is_whole(workdir / n)]
    problems += [f"{workdir / name}: found no whole file" for name in broken]
    can_redo = has_checkpoints(workdir)
    if problems and not can_redo:
        raise ValueError(
            f"{problems[0]}, of a finished run without checkpoints to make it from; "
            "put it back or choose another --workdir"
        )
    if can_redo and not _is_whole(workdir / REPORT):
        problems.append(f"{workdir / REPORT}: found no whole file")
    for problem in problems:
        LOG.warning("made again: %s", problem)
    return None if problems else result


def describe_foreign_file(workdir: pathlib.Path, *, is_begun: bool) -> str:
    """Describes the first file that a run would overwrite although no run wrote it.

    Args:
      workdir: directory of the run.
      is_begun: whether it holds a run with a checkpoint or a summary.

    Returns:
      The error message, or "" if there is no such file.
    """
    record = workdir / RECORD
    for name in FOLDERS:
        if os.path.lexists(workdir / name) and not (workdir / name).is_dir():
            return _in_the_way(workdir / name, "not a directory")
    for name in (RECORD, SUMMARY, MODEL_FILE, EMA_FILE, ROWS, REPORT):
        if (workdir / name).is_dir():
            return _in_the_way(workdir / name, "a directory")
    for name in (MODEL_FILE, EMA_FILE):
        file = workdir / name
        if is_begun and (kind := _foreign_kind(file)):
            return (
                f"workdir: found {kind} in {file}, expected the model of the run; move "
                "it away, and the same command writes the run's own"
            )
        if not is_begun and os.path.lexists(file):
            return _in_the_way(file, "a model without a checkpoint or a summary")
    if not is_begun and record.exists():
        try:
            is_record = set(read_json_object(record)) >= RECORD_SECTIONS
        except ValueError:
            is_record = False
        if not is_record:
            return _in_the_way(record, "a file that no run of diffkd_jax wrote")
    if not (is_begun or record.exists()):
        for name in (ROWS, REPORT, "examples.npz", "plots"):
            file = workdir / name
            is_empty = file.is_dir() and not any(file.iterdir())
            if os.path.lexists(file) and not is_empty:
                return _in_the_way(file, f"which lies there without a {RECORD}")
    return ""


def refuse_single_run(workdir: pathlib.Path) -> None:
    """Checks that a comparison in this workdir would not overwrite a foreign report.

    Args:
      workdir: directory of the comparison.

    Raises:
      ValueError: the workdir holds a run, or a report without the runs that it
        compares.
    """
    if broadcast_first((workdir / RECORD).exists()):
        raise ValueError(
            f"workdir: {workdir} holds a run of its own, whose report a comparison "
            "would overwrite; choose another --workdir"
        )
    report = workdir / REPORT
    is_foreign = os.path.lexists(report) and not any(workdir.glob(f"*/{RECORD}"))
    if broadcast_first(is_foreign):
        raise ValueError(_in_the_way(report, "which is not of a comparison"))


def check_directory(workdir: pathlib.Path) -> None:
    """Checks whether a workdir can be created, without creating it.

    Args:
      workdir: directory of the run.

    Raises:
      ValueError: a file has its name or that of a parent, or there is no right to
        write.
    """
    parent = next(
        p for p in (workdir, *workdir.absolute().parents) if os.path.lexists(p)
    )
    if not parent.is_dir():
        raise ValueError(
            f"workdir: {workdir}: found the file {parent}, expected a directory; "
            "choose another --workdir"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"workdir: {workdir}: found no right to write in {parent}, expected a "
            "directory that can be written to; choose another --workdir"
        )


def _in_the_way(file: pathlib.Path, kind: str) -> str:
    """Returns the message about a file that a run would overwrite."""
    return (
        f"workdir: found {file}, {kind}, expected none that a run would overwrite; "
        "move it or choose another --workdir"
    )


def _foreign_kind(file: pathlib.Path) -> str:
    """Returns the kind of a foreign file, "" for a model of ours, damaged or not."""
    if not file.is_file():
        return ""
    kind = find_kind(file)
    if kind is not SAFETENSORS:
        return "" if kind.is_damaged else kind.name
    try:
        return "" if is_ours(open_weights(file)) else "weights of another program"
    except ValueError:
        return ""


def has_checkpoints(workdir: pathlib.Path) -> bool:
    """Returns whether a workdir holds a checkpoint, finished or not.

    Args:
      workdir: directory of the run, which need not exist.

    >>> has_checkpoints(pathlib.Path("no_run"))
    False
    """
    return any(p.name.isdigit() for p in (workdir / "checkpoints").glob("*"))


def _is_whole(file: pathlib.Path) -> bool:
    """Returns whether a file is there and is not cut short."""
    if file.suffix != ".safetensors":
        return file.exists() and file.stat().st_size > 0
    try:
        # Opening compares the length of the file with its header.
        return open_weights(file).kind is SAFETENSORS
    except (ValueError, OSError):
        return False


def read_json_object(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; numbers that were undefined when written are None.

    Args:
      path: the file.

    Returns:
      The object.

    Raises:
      ValueError: the file does not hold a JSON object; the message names the file.
    """
    try:
        value = valid_json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: found no readable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found {type(value).__name__}, expected an object")
    return value


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes valid JSON to a file, which appears when it is complete.

    Args:
      path: the file; an existing one is replaced.
      value: what to write. Numbers that are undefined become null.
    """
    write_whole(path, valid_json.dumps(value, indent=2) + "\n")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes text to a file, which appears when it is complete.

    Args:
      path: the file; an existing one is replaced.
      text: what to write.
    """
    with appearing(path) as partial:
        # Names of files may hold bytes that are not text; they must not end a run.
        partial.write_text(text, encoding="utf-8", errors="replace")
