"""Whose a workdir is: the record of its config, data and teacher, ``config.json``."""

import itertools
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ... import __version__
from ...config.defaults import base
from ...config.recorded import check_version
from ...config.resolve import resolve
from ...config.section import Free
from ...config.sections import FIELDS, Config
from ...io import valid_json
from ...tasks.classes import first_difference
from ..cluster.processes import as_first, everywhere, is_primary, wait_for_all
from ..components import make_method
from .directory import (
    SUMMARY,
    foreign_file,
    has_checkpoints,
    read_json_object,
    write_json,
)

LOG = logging.getLogger(__name__)
# Fields that may change between two calls on the same workdir.
FREE = {path for path, field in FIELDS.items() if field.has(Free)}
KNOWN_BY = ("classes", "pictures")  # keys of the record that are no fields either
TEACHER = "teacher_checksum"  # a key of the record that is no field of the config
CHANGED = "changed"  # another: fields that changed after a stop, from and to
DIVERGED = "diverged.json"  # where numbers that were not finite stopped a run
# What may then be another, for it changes no array of the state.
STEERS = re.compile(
    r"optimizer\.learning_rate|weights\..+"
    r"|methods\.[^.]+\.((task|logits)_)?weight"
)


def claim_workdir(
    config: Config,
    workdir: pathlib.Path,
    data: Mapping[str, list] | None = None,
    *,
    write: bool = True,
) -> dict[str, Any]:
    """Records the config in a new workdir, or checks that an old one is the same.

    A workdir without a checkpoint or a summary counts as new. It is refused if it holds
    a file that is not a run's and that a run would overwrite.
    A run that a version before 0.4 began is refused. A field that the record of an
    older version lacks counts as its default. A run that
    stopped at numbers that are not finite may go on with other :data:`STEERS`, once.

    Args:
      config: of the run.
      workdir: its directory.
      data: what its data are known by, lists by name.
      write: False to look whether the workdir could be claimed, and change nothing.

    Returns:
      What fields that changed since the run began were then, "nothing" for none.

    Raises:
      ValueError: the workdir holds a run of another config or on other data, one
        whose record cannot be read, or somebody else's file where a run writes its own;
        nothing is changed.
    """
    record = workdir / "config.json"
    wanted, data = _as_json(config), dict(data or {})
    new = {"version": __version__, **data, **wanted}
    finished = (workdir / SUMMARY).exists()
    free = not (finished or has_checkpoints(workdir))
    diverged = not finished and as_first((workdir / DIVERGED).exists())
    problem = foreign_file(workdir, begun=not free) if is_primary() else ""
    if not everywhere(not problem):  # all processes stop
        raise ValueError(
            problem
            or f"workdir: {workdir}: process 0 found a file in the way, see its message"
        )
    if free and not diverged:
        if write and is_primary():
            write_json(record, new)
        return {}
    if not record.exists():
        raise ValueError(
            f"workdir: found a run in {workdir} and no config.json, expected the "
            "record of its config; put it back or choose another --workdir"
        )
    found = read_json_object(record)
    kept = {k: v for k, v in found.items() if k in ("version", TEACHER, *KNOWN_BY)}
    check_version(record, found)
    version = found.pop("version")
    found.pop(TEACHER, None)
    changed = _changes(record, found.pop(CHANGED, []))
    for name in {*data, *KNOWN_BY}:
        known = found.pop(name, [])
        if not isinstance(known, list):
            raise ValueError(
                f"{record}: found {name} of {type(known).__name__}, expected a list"
            )
        # What either lacks is not known.
        other = known and data.get(name) and known != data[name]
        if other and name == "classes" and len(known) == len(data[name]):
            # What has names in one version may have numbers in another.
            other = bool(first_difference(list(map(str, known)), data[name]))
        if other and not free:
            raise ValueError(
                f"workdir: {workdir} holds a run on data of {name} {_few(known)}, "
                f"found {_few(data[name])}; set data.path or choose another --workdir"
            )
    if write and version != __version__:
        LOG.warning(
            "%s: begun by version %s, goes on in %s, whose images and rounding may "
            "differ",
            *(workdir, version, __version__),
        )
    if not make_method(config).taps:  # then what is set of a teacher has no effect
        found["teacher"], wanted["teacher"] = {}, {}
    different = _differences(_flat(found), _flat(wanted))
    lines = [
        f"  {name}: found {theirs!r}, expected {ours!r}"
        for name, (theirs, ours) in different.items()
    ]
    steers = {name: pair for name, pair in different.items() if STEERS.fullmatch(name)}
    if diverged and (free or steers == different):
        if write and different:
            text = "\n".join(lines)
            LOG.warning("%s goes on with another config:\n%s", workdir, text)
        changed += [steers] if steers else []
        if write:
            wait_for_all("the record is read")
        if write and is_primary():
            # Of a run without a checkpoint all may be another, but the teacher that it
            # trained was so at the first rate.
            kept = new if free else {**kept, **_as_json(config)}
            write_json(record, {**kept, CHANGED: changed} if changed else kept)
            (workdir / DIVERGED).unlink(missing_ok=True)
    elif different:
        shown = "\n".join(itertools.islice(lines, 10))
        other = version != __version__
        by = f" (by version {version}, this is {__version__})" if other else ""
        raise ValueError(
            f"workdir: {workdir} holds a run of another config{by}; choose another "
            f"--workdir\n{shown}"
        )
    began: dict[str, Any] = {}
    for change in changed:
        began = {name: theirs for name, (theirs, _) in change.items()} | began
    return began


def _changes(record: pathlib.Path, found: Any) -> list[dict[str, Any]]:
    """What the record says of fields that changed; ValueError where it says no such."""
    if not isinstance(found, list) or not all(
        isinstance(change, dict)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in change.values())
        for change in found
    ):
        raise ValueError(
            f"{record}: found {CHANGED} {found!r}, expected a list of fields with two "
            "values each"
        )
    return found


def record_divergence(workdir: pathlib.Path, step: int, text: str) -> None:
    """Notes that a run stopped at numbers that are not finite, and where."""
    if is_primary():
        write_json(workdir / DIVERGED, {"step": step, "found": text})


def record_teacher(workdir: pathlib.Path, checksum: int) -> None:
    """Records which teacher a run has, or checks that it is still the same.

    Args:
      workdir: claimed by :func:`claim_workdir`.
      checksum: of the teacher's numbers; where they lie does not matter.

    Raises:
      ValueError: the run had another teacher.
    """
    wait_for_all("the workdir is claimed")
    file = workdir / "config.json"
    record = read_json_object(file) if file.exists() else {}
    known = record.get(TEACHER, checksum)
    if known != checksum:
        raise ValueError(
            f"teacher.init: found a teacher of checksum {checksum}, expected {known}, "
            f"the one that the run in {workdir} began with; put it back or choose "
            "another --workdir"
        )
    if is_primary() and TEACHER not in record:
        write_json(file, {TEACHER: checksum, **record})


def _differences(
    found: dict[str, Any], expected: dict[str, Any]
) -> dict[str, list[Any]]:
    """Values of the record and of the run, of the fields in which they differ."""
    defaults = _flat(_as_json(resolve(base())))
    # Of methods the one that was chosen matters.
    for flat in (found, expected):
        chosen = f"methods.{flat.get('method')}."
        for name in [n for n in flat if n.startswith("methods.")]:
            if not name.startswith(chosen):
                del flat[name]
    different = {}
    for name in sorted({*found, *expected} - FREE):
        theirs = found.get(name, defaults.get(name, "nothing"))
        ours = expected.get(name, "nothing")
        if theirs != ours:
            different[name] = [theirs, ours]
    return different


def _as_json(config: Config) -> dict[str, Any]:
    """Returns a config as its record is read back: tuples become lists.

    A relative ``data.path`` that exists becomes absolute: the record may be read from
    another folder. Other texts, such as names that a loader knows, stay as they are.
    """
    path = config.data.path
    if path and os.path.exists(path):
        path = os.path.abspath(path)
    values = config.replace(data=config.data.replace(path=path)).model_dump()
    return valid_json.loads(valid_json.dumps(values, default=str))


def _few(values: Sequence) -> str:
    more = f", ... {len(values)} in all" if len(values) > 4 else ""
    return f"({', '.join(map(str, values[:4]))}{more})"


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
