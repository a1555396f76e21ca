"""The directory of a run: whose it is, and files that appear whole."""

import contextlib
import itertools
import json
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from filelock import FileLock, Timeout

from .. import __version__
from ..config import FREE_FIELDS, RETIRED_FIELDS, base
from ..models.files import EMA_FILE, MODEL_FILE
from ..models.tensors import read_metadata
from .sharding import is_primary, wait_for_all

LOG = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"
# Of a summary, what comparisons read.
COMPARED = ("final_top1", "best_top1", "images_per_second")
TEACHER = "teacher_checksum"  # a key of the record that is no field of the config


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir; the lock of a process that died is free.

    Raises:
      ValueError: another run is in it.
      OSError: it cannot be made or written to.
    """
    if not is_primary():
        yield
        return
    lock = FileLock(workdir / "lock")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"workdir: {workdir} is in use by another run, expected one at a time; "
            "wait for its end or choose another --workdir"
        ) from None
    except OSError as error:
        raise OSError(
            f"workdir: found {error}, expected a directory that can be written to"
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim_workdir(
    config, workdir: pathlib.Path, class_names: Sequence[str] = ()
) -> None:
    """Records the config in a new workdir, or checks that an old one is the same.

    A workdir without a checkpoint or a summary has nothing to lose and counts as new.
    A field that the record of an older version lacks counts as its default.

    Args:
      config: of the run.
      workdir: its directory.
      class_names: of the data, in label order.

    Raises:
      ValueError: the workdir holds a run of another config or other classes, or one
        whose record cannot be read; nothing is changed.
    """
    record = workdir / "config.json"
    wanted = json.loads(json.dumps(config.to_dict(), default=str))
    has_run = (workdir / SUMMARY).exists() or any(
        path.name.isdigit() for path in (workdir / "checkpoints").glob("*")
    )
    if not has_run:
        if is_primary():
            whole = {"version": __version__, "classes": list(class_names), **wanted}
            write_json(record, whole)
        return
    if not record.exists():
        raise ValueError(
            f"workdir: found a run in {workdir} and no config.json, expected the "
            "record of its config; put it back or choose another --workdir"
        )
    found = read_json(record)
    version, classes = found.pop("version", "0.1.0"), found.pop("classes", [])
    found.pop(TEACHER, None)
    if not isinstance(classes, list):
        raise ValueError(
            f"{record}: found classes of {type(classes).__name__}, expected a list"
        )
    if classes and class_names and classes != list(class_names):
        raise ValueError(
            f"workdir: {workdir} holds a run on {len(classes)} classes "
            f"{_few(classes)}, found data of {len(class_names)}, {_few(class_names)}; "
            "set data.path or choose another --workdir"
        )
    different = _differences(_flat(found), _flat(wanted))
    if different:
        shown = "\n".join(itertools.islice(different, 10))
        raise ValueError(
            f"workdir: {workdir} holds a run of another config (by version {version}, "
            f"this is {__version__}); choose another --workdir\n{shown}"
        )


def record_teacher(workdir: pathlib.Path, checksum: int) -> None:
    """Records which teacher a run has, or checks that it is still the same.

    Args:
      workdir: claimed by :func:`claim_workdir`.
      checksum: of the teacher's numbers; where they lie does not matter. A record of
        an older version, which has none, takes any.

    Raises:
      ValueError: the run had another teacher.
    """
    wait_for_all("the workdir is claimed")
    file = workdir / "config.json"
    record = read_json(file) if file.exists() else {}
    known = record.get(TEACHER, checksum)
    if known != checksum:
        raise ValueError(
            f"teacher.init: found a teacher of checksum {checksum}, expected {known}, "
            f"the one that the run in {workdir} began with; put it back or choose "
            "another --workdir"
        )
    if is_primary() and TEACHER not in record:
        write_json(file, {TEACHER: checksum, **record})


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    defaults = _flat(json.loads(json.dumps(base().to_dict(), default=str)))
    lines = []
    for name in sorted({*found, *expected} - set(FREE_FIELDS)):
        theirs = found.get(name, defaults.get(name, "nothing"))
        ours = expected.get(name, RETIRED_FIELDS.get(name, "nothing"))
        if theirs != ours:
            lines.append(f"  {name}: found {theirs!r}, expected {ours!r}")
    return lines


def read_summary(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What a finished run wrote last; None if anything of it is to be made again."""
    file = workdir / SUMMARY
    if not file.exists():
        return None
    try:
        result = read_json(file)
    except ValueError as error:
        LOG.warning("made again: %s", error)
        return None
    names = [MODEL_FILE, REPORT]
    if "final_ema_top1" in result:
        names.append(EMA_FILE)
    broken = [n for n in names if not _is_whole(workdir / n)]
    if broken:
        LOG.warning("%s: found no %s, made again", workdir, " and no ".join(broken))
        return None
    lacking = [n for n in COMPARED if not isinstance(result.get(n), int | float)]
    if lacking:
        LOG.warning("%s: found no number %s, made again", file, lacking[0])
        return None
    return result


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


def _few(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 4 else ""
    return f"({', '.join(map(str, names[:4]))}{more})"


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
