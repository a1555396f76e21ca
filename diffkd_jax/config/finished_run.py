"""The config of a finished run, for a command that uses its student."""

import logging
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from flax.traverse_util import flatten_dict

from .defaults import base
from .recorded import as_tuples, check_named, import_paths, read_record
from .resolve import as_mapping
from .section import OfMachine
from .sections import FIELDS

LOG = logging.getLogger(__name__)
# Sections on which the score of a student depends.
SECTIONS = ("data", "task", "student", "mix", "train")
# Fields of the machine that the command runs on.
OF_MACHINE = {path for path, field in FIELDS.items() if field.has(OfMachine)}
# Fields that may hold an import path.
NAMES = {"data": "name", "task": "name", "student": "model"}
# Fields that belong to what is named there, and not to another data set or model.
OF_NAMED: dict[str, tuple[str, ...]] = {
    "data": ("path", "train_split", "eval_split", "holdout", "limit", "num_classes"),
    "task": (),
    "student": (),
}


def as_trained(
    config: Any, workdir: pathlib.Path, fields_set: Collection[str] | None = None
) -> Any:
    """Returns a config whose data, task and student are those of a finished run.

    The sections ``mix`` and ``train`` are the run's too, because a task may take
    arguments from them. Fields that depend on the machine, such as
    ``data.num_threads``, stay unchanged. The log names each field of data, task and
    student in which config and run differ. Values are not checked;
    :func:`diffkd_jax.config.resolve.resolve` does that.

    Args:
      config: the config of the command that uses the run's student.
      workdir: the workdir of the run. If it has no ``config.json``, ``config`` is
        returned unchanged.
      fields_set: paths of the fields that the caller set by hand, such as
        ``data.limit``. These keep their values in ``config``. None stands for all
        fields that differ from their defaults.

    Raises:
      ValueError: The ``config.json`` cannot be read, the student was set by hand and
        differs from the run's, or the ``config.json`` holds an import path that
        ``config`` does not hold. Importing runs code, so a name in a file alone is not
        enough.
    """
    file = workdir / "config.json"
    if not file.exists():
        LOG.info("%s: found none, data and student are those of this config", file)
        return config
    merged = as_mapping(config)
    ours = _flat(merged)
    recorded = read_record(file, SECTIONS)
    of_run = _flat({k: v for k, v in recorded.to_dict().items() if k in SECTIONS})
    _check_student(file, of_run, ours, by_hand=fields_set or ())
    if fields_set is None:
        defaults = _flat(base().to_dict())
        fields_set = {
            k for k, v in ours.items() if k not in defaults or defaults[k] != v
        }
    for section, name in NAMES.items():
        field = f"{section}.{name}"
        if field in fields_set and ours[field] != of_run.get(field):
            others = tuple(f"{section}.{n}" for n in (*OF_NAMED[section], "options"))
            of_run = {k: v for k, v in of_run.items() if not k.startswith(others)}
        else:
            _drop_options(merged[section]["options"], f"{section}.options.", fields_set)
    taken = {k: v for k, v in of_run.items() if k not in {*fields_set, *OF_MACHINE}}
    paths = import_paths(recorded.to_dict())
    check_named({k: v for k, v in paths.items() if k in taken and ours.get(k) != v}, ())
    for field, value in taken.items():
        _set(merged, field, value)
    _log_differences(of_run, ours, fields_set)
    return merged


def _check_student(
    file: pathlib.Path,
    of_run: Mapping[str, Any],
    ours: Mapping[str, Any],
    by_hand: Collection[str],
) -> None:
    """Refuses a student that is set by hand and is not the one that was trained.

    An import path may be another one, of code that was moved.
    """
    for field in sorted(by_hand):
        is_moved = field == "student.model" and ":" in str(ours.get(field))
        if not field.startswith(("student.model", "student.options.")) or is_moved:
            continue
        value, is_recorded = ours.get(field, "nothing"), field in of_run
        if not is_recorded or value != of_run[field]:
            trained = repr(of_run[field]) if is_recorded else "no such option"
            raise ValueError(
                f"{field}: found {value!r}, expected {trained}, as in {file}: the "
                "student is trained already; leave the flag out"
            )


def _drop_options(
    options: dict[str, Any], prefix: str, fields_set: Collection[str]
) -> None:
    """Deletes options of a recipe, whose place those of the run take."""
    for name in [n for n in options if prefix + n not in fields_set]:
        del options[name]


def _log_differences(
    of_run: Mapping[str, Any], ours: Mapping[str, Any], fields_set: Collection[str]
) -> None:
    """Logs the fields of data, task and student in which run and config differ."""
    for field in sorted({*of_run, *fields_set} - OF_MACHINE):
        pair = (of_run.get(field, "nothing"), ours.get(field, "nothing"))
        if not field.startswith(tuple(NAMES)) or pair[0] == pair[1]:
            continue
        if field in fields_set:
            LOG.warning("%s: the run had %r, this call gives %r", field, *pair)
        else:
            LOG.info("%s: %r as in the run, not %r", field, *pair)


def _set(values: dict[str, Any], field: str, value: Any) -> None:
    """Sets a field, or an option that may be new."""
    section, name, *option = field.split(".", 2)
    target = values[section]["options"] if option else values[section]
    target[option[0] if option else name] = value


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields by path; options are one level, lists are tuples."""
    flat = flatten_dict(
        dict(tree), sep=".", is_leaf=lambda path, _: path[1:2] == ("options",)
    )
    result: dict[str, Any] = {}
    for field, value in flat.items():
        if field.endswith(".options") and isinstance(value, Mapping):
            result |= {f"{field}.{k}": as_tuples(v) for k, v in value.items()}
        else:
            result[field] = as_tuples(value)
    return result
