"""The config of a finished run, for a command that uses its student."""

import logging
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from ..config import base
from .workdir import read_json

LOG = logging.getLogger(__name__)
# What the score of a student depends on.
SECTIONS = ("data", "task", "student", "mix", "train")
# Fields of the machine that the command runs on.
OF_MACHINE = {
    f"data.{name}"
    for name in ("num_threads", "num_workers", "max_unreadable", "stalled_seconds")
}
# Fields that may hold an import path.
NAMES = {"data": "name", "task": "name", "student": "model"}
# Fields that belong to what is named there, and not to another data set or model.
OF_NAMED: dict[str, tuple[str, ...]] = {
    "data": ("path", "train_split", "eval_split", "holdout", "limit", "num_classes"),
    "task": (),
    "student": (),
}


def as_trained(
    config, workdir: pathlib.Path, given: Collection[str] | None = None
) -> Any:
    """Returns a config whose data, task and student are those of a finished run.

    The log names each field of these in which config and run differ.

    Args:
      config: of the command that uses the student.
      workdir: of the run. Without a ``config.json`` in it the config is returned as it
        is.
      given: paths of the fields that the caller set by hand, such as ``data.limit``;
        they take the place of the run's. None for all fields that are not at their
        default.

    Raises:
      ValueError: a record that cannot be read, fields that there are not, values of
        another type, or an import path that ``config`` does not name too. To import
        is to run code, and the name would be the file's.
    """
    file = workdir / "config.json"
    if not file.exists():
        LOG.info("%s: found none, data and student are those of this config", file)
        return config.copy_and_resolve_references()
    ours = _flat(config.to_dict())
    if given is None:
        defaults = _flat(base().to_dict())
        given = {k for k, v in ours.items() if k not in defaults or defaults[k] != v}
    of_run = _sections(file, read_json(file))
    merged = config.copy_and_resolve_references()
    for section, name in NAMES.items():
        field = f"{section}.{name}"
        if field in given and ours[field] != of_run.get(field):
            others = tuple(f"{section}.{n}" for n in (*OF_NAMED[section], "options"))
            of_run = {k: v for k, v in of_run.items() if not k.startswith(others)}
        else:
            _check_import_path(file, field, of_run.get(field, ""), ours[field])
            _keep_options(merged[section].options, f"{section}.options.", given)
    for field, value in of_run.items():
        if field not in {*given, *OF_MACHINE}:
            _set(merged, file, field, value)
    _log_differences(of_run, ours, given)
    return merged


def _keep_options(options, prefix: str, given: Collection[str]) -> None:
    """Deletes options of a recipe, whose place those of the run take."""
    with options.unlocked():
        for name in [n for n in options if prefix + n not in given]:
            del options[name]


def _log_differences(
    of_run: Mapping[str, Any], ours: Mapping[str, Any], given: Collection[str]
) -> None:
    """Logs the fields of data, task and student in which run and config differ."""
    for field in sorted({*of_run, *given} - OF_MACHINE):
        pair = (of_run.get(field, "nothing"), ours.get(field, "nothing"))
        if not field.startswith(tuple(NAMES)) or pair[0] == pair[1]:
            continue
        if field in given:
            LOG.warning("%s: the run had %r, this call gives %r", field, *pair)
        else:
            LOG.info("%s: %r as in the run, not %r", field, *pair)


def _sections(file: pathlib.Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the recorded fields of :data:`SECTIONS` by path."""
    sections = {name: record.get(name, {}) for name in SECTIONS}
    dicts = dict(sections)
    for name in NAMES:
        if isinstance(sections[name], dict):
            dicts[f"{name}.options"] = sections[name].get("options", {})
    for name, value in dicts.items():
        if not isinstance(value, dict):
            raise ValueError(f"{file}: found {name} {value!r}, expected an object")
    return _flat(sections)


def _check_import_path(
    file: pathlib.Path, field: str, recorded: Any, named: str
) -> None:
    """Raises ValueError for an import path that only the file names."""
    is_path = ":" in str(recorded).partition("/")[0]
    if is_path and recorded != named:
        raise ValueError(
            f"{field}: found the import path {recorded!r} in {file}, expected the "
            f"command to name it too, for to import is to run code: add "
            f"--config.{field}={recorded}"
        )


def _set(config, file: pathlib.Path, field: str, value: Any) -> None:
    """Sets a recorded value, of a field that there is and of its type."""
    section, name, *rest = field.split(".")
    is_option = name == "options"
    if not is_option and (rest or name not in config[section]):
        raise ValueError(f"{file}: found the field {field}, expected no such field")
    target = config[section].options if is_option else config[section]
    try:
        with target.unlocked():
            target[rest[0] if is_option else name] = value
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {field}: found {value!r}: {error}") from None


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields by path; options are one level, lists are tuples."""
    flat = flatten_dict(
        dict(tree), sep=".", is_leaf=lambda path, _: path[1:2] == ("options",)
    )
    result: dict[str, Any] = {}
    for field, value in flat.items():
        if field.endswith(".options") and isinstance(value, Mapping):
            result |= {f"{field}.{k}": _as_tuples(v) for k, v in value.items()}
        else:
            result[field] = _as_tuples(value)
    return result


def _as_tuples(value: Any) -> Any:
    """Turns lists into tuples, in which a config holds several values."""
    if isinstance(value, list | tuple):
        return tuple(map(_as_tuples, value))
    if isinstance(value, Mapping):
        return {k: _as_tuples(v) for k, v in value.items()}
    return value
