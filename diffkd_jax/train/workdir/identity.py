"""Records, in ``config.json``, which config, data and teacher a workdir belongs to."""

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
# Keys of the record that are not fields of the config: what identifies the data, the
# checksum of the teacher, and values before and after a change of fields.
DATA_KEYS = ("classes", "pictures")
TEACHER = "teacher_checksum"
CHANGED = "changed"
DIVERGED = "diverged.json"  # written if numbers that are not finite stop a run
# Fields that may then change, because they change no array of the state.
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
    """Records the config in a new workdir, or checks that an old one has the same.

    A workdir without a checkpoint or a summary counts as new. It is refused if it holds
    a file that no run wrote and that a run would overwrite. In an old workdir, a field
    that the record lacks counts as its default, and a run of a version before 0.4 is
    refused. A run that stopped because numbers were not finite may resume once with
    other values of :data:`STEERS`.

    Args:
      config: a resolved config.
      workdir: directory of the run.
      data: lists by name that identify the data, such as ``classes``.
      write: False to check whether the workdir could be claimed, without any change.

    Returns:
      For fields that changed since the run began, their values at that time; the text
      "nothing" if a field did not exist.

    Raises:
      ValueError: the workdir holds a run of another config or on other data, a run
        whose record cannot be read, or a file of somebody else under a name that a run
        writes. Nothing was changed.
    """
    record = workdir / "config.json"
    expected, data = _as_json(config), dict(data or {})
    new_record = {"version": __version__, **data, **expected}
    finished = (workdir / SUMMARY).exists()
    is_new = not (finished or has_checkpoints(workdir))
    diverged = not finished and as_first((workdir / DIVERGED).exists())
    problem = foreign_file(workdir, begun=not is_new) if is_primary() else ""
    if not everywhere(not problem):  # all processes stop
        raise ValueError(
            problem
            or f"workdir: {workdir}: process 0 found a file in the way, see its message"
        )
    if is_new and not diverged:
        if write and is_primary():
            write_json(record, new_record)
        return {}
    if not record.exists():
        raise ValueError(
            f"workdir: found a run in {workdir} and no config.json, expected the "
            "record of its config; put it back or choose another --workdir"
        )
    recorded = read_json_object(record)
    other_keys = ("version", TEACHER, *DATA_KEYS)
    unchanged = {k: v for k, v in recorded.items() if k in other_keys}
    check_version(record, recorded)
    version = recorded.pop("version")
    recorded.pop(TEACHER, None)
    changed = _changes(record, recorded.pop(CHANGED, []))
    for name in {*data, *DATA_KEYS}:
        values = recorded.pop(name, [])
        if not isinstance(values, list):
            raise ValueError(
                f"{record}: found {name} of {type(values).__name__}, expected a list"
            )
        # An empty or missing list means that it is not known.
        differs = values and data.get(name) and values != data[name]
        if differs and name == "classes" and len(values) == len(data[name]):
            # Classes may have names in one version and only numbers in another.
            differs = bool(first_difference(list(map(str, values)), data[name]))
        if differs and not is_new:
            raise ValueError(
                f"workdir: {workdir} holds a run on data of {name} {_few(values)}, "
                f"found {_few(data[name])}; set data.path or choose another --workdir"
            )
    if write and version != __version__:
        LOG.warning(
            "%s: begun by version %s, goes on in %s, whose images and rounding may "
            "differ",
            *(workdir, version, __version__),
        )
    if not make_method(config).taps:  # then fields of the teacher have no effect
        recorded["teacher"], expected["teacher"] = {}, {}
    different = _differences(_flat(recorded), _flat(expected))
    lines = [
        f"  {name}: found {old!r}, expected {new!r}"
        for name, (old, new) in different.items()
    ]
    steers = {name: pair for name, pair in different.items() if STEERS.fullmatch(name)}
    if diverged and (is_new or steers == different):
        if write and different:
            text = "\n".join(lines)
            LOG.warning("%s goes on with another config:\n%s", workdir, text)
        changed += [steers] if steers else []
        if write:
            wait_for_all("the record is read")
        if write and is_primary():
            # Without a checkpoint all fields may change. The changes are recorded
            # even then, because the run's teacher was trained at the first rate.
            content = new_record if is_new else {**unchanged, **_as_json(config)}
            write_json(record, {**content, CHANGED: changed} if changed else content)
            (workdir / DIVERGED).unlink(missing_ok=True)
    elif different:
        differences = "\n".join(itertools.islice(lines, 10))
        versions = ""
        if version != __version__:
            versions = f" (by version {version}, this is {__version__})"
        raise ValueError(
            f"workdir: {workdir} holds a run of another config{versions}; choose "
            f"another --workdir\n{differences}"
        )
    first_values: dict[str, Any] = {}
    for change in changed:
        first_values = {name: old for name, (old, _) in change.items()} | first_values
    return first_values


def _changes(record: pathlib.Path, changes: Any) -> list[dict[str, Any]]:
    """Returns the changes that a record holds; raises ValueError for anything else."""
    if not isinstance(changes, list) or not all(
        isinstance(change, dict)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in change.values())
        for change in changes
    ):
        raise ValueError(
            f"{record}: found {CHANGED} {changes!r}, expected a list of fields with "
            "two values each"
        )
    return changes


def record_divergence(workdir: pathlib.Path, step: int, text: str) -> None:
    """Records at which step a run stopped because numbers were not finite.

    Args:
      workdir: directory of the run.
      step: number of the step.
      text: the error message.
    """
    if is_primary():
        write_json(workdir / DIVERGED, {"step": step, "found": text})


def record_teacher(workdir: pathlib.Path, checksum: int) -> None:
    """Records which teacher a run has, or checks that it is still the same.

    Args:
      workdir: directory of the run, claimed by :func:`claim_workdir`.
      checksum: checksum of the teacher's variables, so the path of its file does not
        matter.

    Raises:
      ValueError: the run had another teacher.
    """
    wait_for_all("the workdir is claimed")
    file = workdir / "config.json"
    record = read_json_object(file) if file.exists() else {}
    recorded = record.get(TEACHER, checksum)
    if recorded != checksum:
        raise ValueError(
            f"teacher.init: found a teacher of checksum {checksum}, expected "
            f"{recorded}, the one that the run in {workdir} began with; put it back or "
            "choose another --workdir"
        )
    if is_primary() and TEACHER not in record:
        write_json(file, {TEACHER: checksum, **record})


def _differences(
    recorded: dict[str, Any], expected: dict[str, Any]
) -> dict[str, list[Any]]:
    """Returns, for each field that differs, its values in the record and in the run."""
    defaults = _flat(_as_json(resolve(base())))
    # Options of other methods than the chosen one have no effect.
    for flat in (recorded, expected):
        prefix = f"methods.{flat.get('method')}."
        for name in [n for n in flat if n.startswith("methods.")]:
            if not name.startswith(prefix):
                del flat[name]
    different = {}
    for name in sorted({*recorded, *expected} - FREE):
        old = recorded.get(name, defaults.get(name, "nothing"))
        new = expected.get(name, "nothing")
        if old != new:
            different[name] = [old, new]
    return different


def _as_json(config: Config) -> dict[str, Any]:
    """Returns a config as its record is read back: tuples become lists.

    A relative ``data.path`` that exists becomes absolute, because the record may be
    read from another folder. Other texts, such as names that a loader knows, stay
    unchanged.
    """
    path = config.data.path
    if path and os.path.exists(path):
        path = os.path.abspath(path)
    values = config.replace(data=config.data.replace(path=path)).model_dump()
    return valid_json.loads(valid_json.dumps(values, default=str))


def _few(values: Sequence) -> str:
    """Returns the first values as text, and their number if there are more."""
    more = f", ... {len(values)} in all" if len(values) > 4 else ""
    return f"({', '.join(map(str, values[:4]))}{more})"


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts by their path with dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
