"""Reads and writes ``config.json``, the record of what a workdir belongs to.

It holds the config, lists that identify the data, the checksum of the teacher, the
version that began the run, and fields that were changed after the run had diverged:
after its numbers were not finite.
"""

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...config.defaults import base
from ...config.recorded import check_version
from ...config.resolve import resolve
from ...config.section import Free
from ...config.sections import FIELDS, Config
from ...io import valid_json
from ..cluster.processes import is_primary, wait_for_all
from .directory import RECORD, read_json_object, write_json

# Fields that may change between two calls on the same workdir.
FREE = {path for path, field in FIELDS.items() if field.has(Free)}
# Keys of the record that are not fields of the config.
DATA_KEYS = ("classes", "pictures")
TEACHER = "teacher_checksum"
CHANGED = "changed"
DIVERGED = "diverged.json"  # written when numbers that are not finite stop a run


class Identity(NamedTuple):
    """The content of a run's ``config.json``.

    Attributes:
      version: version of the package that began the run.
      data: lists that identify the data, by name; empty if not known.
      changed: one entry for each time that fields were changed: their values before and
        after it, by path.
      fields: the config, as nested dicts.
      facts: the entries that are not fields, as in the file, without ``changed``.
    """

    version: str
    data: Mapping[str, list[Any]]
    changed: list[dict[str, list[Any]]]
    fields: dict[str, Any]
    facts: dict[str, Any]

    def first_values(self) -> dict[str, Any]:
        """Returns the values that changed fields had when the run began, by path.

        >>> changed = [{"weights.task": [1, 2]}, {"weights.task": [2, 3]}]
        >>> Identity("0.4.0", {}, changed, {}, {}).first_values()
        {'weights.task': 1}
        """
        first: dict[str, Any] = {}
        for change in self.changed:
            first = {name: old for name, (old, _) in change.items()} | first
        return first


def read_identity(file: pathlib.Path, data_keys: Iterable[str] = ()) -> Identity:
    """Reads the record of a run.

    Args:
      file: the ``config.json`` of a workdir.
      data_keys: names of lists that identify the data, beside :data:`DATA_KEYS`.

    Returns:
      The record.

    Raises:
      ValueError: the file holds no such record, or one of a version before 0.4.
    """
    record = read_json_object(file)
    known_keys = ("version", TEACHER, *DATA_KEYS)
    facts = {name: value for name, value in record.items() if name in known_keys}
    check_version(file, record)
    version = record.pop("version")
    record.pop(TEACHER, None)
    changed = _checked_changes(file, record.pop(CHANGED, []))
    data = {name: record.pop(name, []) for name in {*data_keys, *DATA_KEYS}}
    for name, values in data.items():
        if not isinstance(values, list):
            raise ValueError(
                f"{file}: found {name} of {type(values).__name__}, expected a list"
            )
    return Identity(version, data, changed, record, facts)


def _checked_changes(file: pathlib.Path, changes: Any) -> list[dict[str, Any]]:
    """Returns the changes that a record holds; raises ValueError for anything else."""
    if not isinstance(changes, list) or not all(
        isinstance(change, dict)
        and all(isinstance(pair, list) and len(pair) == 2 for pair in change.values())
        for change in changes
    ):
        raise ValueError(
            f"{file}: found {CHANGED} {changes!r}, expected a list of fields with two "
            "values each"
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
      workdir: directory of the run, which the run has claimed.
      checksum: checksum of the teacher's variables. The path of its file does not
        matter.

    Raises:
      ValueError: the run had another teacher.
    """
    wait_for_all("the workdir is claimed")
    file = workdir / RECORD
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


def find_differences(
    identity: Identity, config: Config, *, with_teacher: bool
) -> dict[str, list[Any]]:
    """Compares the config in a record with that of a run.

    Fields that are marked ``Free`` may differ, and so may options of methods that the
    run does not use.

    Args:
      identity: the record.
      config: the resolved config of the run.
      with_teacher: whether fields of the teacher count; False if the run has none.

    Returns:
      For each field that differs, by path, its values in the record and in the run.
    """
    recorded, expected = dict(identity.fields), to_json(config)
    if not with_teacher:
        recorded["teacher"], expected["teacher"] = {}, {}
    recorded, expected = _flatten(recorded), _flatten(expected)
    defaults = _flatten(to_json(resolve(base())))
    for flat in (recorded, expected):
        method = flat.get("method")
        used = {method, flat.get(f"methods.{method}.of")}  # a control is of another one
        for name in [n for n in flat if n.startswith("methods.")]:
            if name.split(".")[1] not in used:
                del flat[name]
    different = {}
    for name in sorted({*recorded, *expected} - FREE):
        old = recorded.get(name, defaults.get(name, "nothing"))
        new = expected.get(name, "nothing")
        if old != new:
            different[name] = [old, new]
    return different


def to_json(config: Config) -> dict[str, Any]:
    """Returns a config as it is read back from JSON: tuples become lists.

    A relative ``data.path`` that exists becomes absolute, because the record may be
    read from another folder. Other texts, such as names that a loader knows, stay
    unchanged.

    Args:
      config: a resolved config.

    >>> to_json(Config())["schedule"]["boundaries"]
    []
    """
    path = config.data.path
    if path and os.path.exists(path):
        path = os.path.abspath(path)
    values = config.replace(data=config.data.replace(path=path)).model_dump()
    return valid_json.loads(valid_json.dumps(values, default=str))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dicts by their path with dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= (
            _flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
        )
    return flat
