"""The directory of a run: whose it is, and files that appear whole."""

import contextlib
import itertools
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from filelock import FileLock, Timeout

from .. import __version__
from ..config import FREE_FIELDS, RENAMED_FIELDS, RETIRED_FIELDS, base
from ..methods import describe
from ..models.files import EMA_FILE, MODEL_FILE
from ..models.tensors import read_metadata
from .choose import make_method
from .processes import everywhere, is_primary, wait_for_all

LOG = logging.getLogger(__name__)
SUMMARY, REPORT = "summary.json", "report.html"
KNOWN_BY = ("classes", "pictures")  # keys of the record that are no fields either
TEACHER = "teacher_checksum"  # a key of the record that is no field of the config


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


def claim_workdir(
    config, workdir: pathlib.Path, data: Mapping[str, list] | None = None
) -> None:
    """Records the config in a new workdir, or checks that an old one is the same.

    A workdir without a checkpoint or a summary has nothing to lose and counts as new.
    A field that the record of an older version lacks counts as its default.

    Args:
      config: of the run.
      workdir: its directory.
      data: what its data are known by, lists by name.

    Raises:
      ValueError: the workdir holds a run of another config or on other data, or one
        whose record cannot be read; nothing is changed.
    """
    record = workdir / "config.json"
    wanted, data = _as_json(config), dict(data or {})
    if not ((workdir / SUMMARY).exists() or _has_checkpoints(workdir)):
        if is_primary():
            write_json(record, {"version": __version__, **data, **wanted})
        return
    if not record.exists():
        raise ValueError(
            f"workdir: found a run in {workdir} and no config.json, expected the "
            "record of its config; put it back or choose another --workdir"
        )
    found = read_json(record)
    version = found.pop("version", "0.1.0")
    found.pop(TEACHER, None)
    for name in {*data, *KNOWN_BY}:
        known = found.pop(name, [])
        if not isinstance(known, list):
            raise ValueError(
                f"{record}: found {name} of {type(known).__name__}, expected a list"
            )
        # What either lacks is not known.
        if known and data.get(name) and known != data[name]:
            raise ValueError(
                f"workdir: {workdir} holds a run on data of {name} {_few(known)}, "
                f"found {_few(data[name])}; set data.path or choose another --workdir"
            )
    if version != __version__:
        LOG.warning(
            "%s: begun by version %s, goes on in %s, whose pictures and rounding may "
            "differ (data.limit draws others since 0.2.0)",
            *(workdir, version, __version__),
        )
    own = found.get("methods", {}).get(config.method, {})
    if isinstance(own, dict) and "taps" in own:  # before 0.3.0
        _check_method(record, version, own, describe(make_method(config)))
        found["methods"], wanted["methods"], wanted["weights"] = {}, {}, {}
    different = _differences(_flat(found), _flat(wanted))
    if different:
        shown = "\n".join(itertools.islice(different, 10))
        raise ValueError(
            f"workdir: {workdir} holds a run of another config (by version {version}, "
            f"this is {__version__}); choose another --workdir\n{shown}"
        )


def _check_method(
    record: pathlib.Path, version: str, found: dict, expected: dict[str, Any]
) -> None:
    """Refuses a run of a version before 0.3.0 whose method was another one."""
    taps = {}
    for name, tap in found["taps"].items():
        known = expected["taps"].get(name, {}).get("options", {})
        taps[name] = {**tap, "options": known | tap["options"]}
    weights = {k: w for k, w in found.get("weights", {}).items() if w != 1.0}
    if {"taps": taps, "weights": weights} != json.loads(json.dumps(expected)):
        raise ValueError(
            f"workdir: {record} is of another method (by version {version}, this is "
            f"{__version__}): found {found}, expected {expected}; choose another "
            "--workdir"
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
    defaults = _flat(_as_json(base()))
    # Of methods the one that was chosen matters.
    for flat in (found, expected):
        chosen = f"methods.{flat.get('method')}."
        for name in [n for n in flat if n.startswith("methods.")]:
            if not name.startswith(chosen):
                del flat[name]
    for old, (new, default) in RENAMED_FIELDS.items():
        if old in found:
            value = found.pop(old)
            if value != default:
                found[new] = value
            expected.pop(old, None)
    lines = []
    for name in sorted({*found, *expected} - set(FREE_FIELDS)):
        theirs = found.get(name, defaults.get(name, "nothing"))
        ours = expected.get(name, RETIRED_FIELDS.get(name, "nothing"))
        if theirs != ours:
            lines.append(f"  {name}: found {theirs!r}, expected {ours!r}")
    return lines


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
    has_checkpoints = _has_checkpoints(workdir)
    if problems and not has_checkpoints:
        raise ValueError(
            f"{problems[0]}, of a finished run without checkpoints to make it from; "
            "put it back or choose another --workdir"
        )
    if has_checkpoints and not _is_whole(workdir / REPORT):
        problems.append(f"{workdir / REPORT}: found no whole file")
    for problem in problems:
        LOG.warning("made again: %s", problem)
    return None if problems else result


def _has_checkpoints(workdir: pathlib.Path) -> bool:
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


def _as_json(config) -> dict[str, Any]:
    """A config as its record is read back: tuples become lists."""
    return json.loads(json.dumps(config.to_dict(), default=str))


def _few(values: Sequence) -> str:
    more = f", ... {len(values)} in all" if len(values) > 4 else ""
    return f"({', '.join(map(str, values[:4]))}{more})"


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
