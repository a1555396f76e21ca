"""Reading of a run's ``config.json``, and checks of the import paths in it."""

import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ..bounds import expected
from ..io import valid_json
from .sections import FIELDS

# Keys of a record that are not fields of a config.
FACTS = ("version", "classes", "pictures", "teacher_checksum", "changed")
OLDEST = (0, 4)  # version whose runs this one can read
# Fields whose texts may hold a colon, although nothing is imported by them.
NOT_IMPORTED = (
    *("name", "predictions", "data.path", "teacher.init", "teacher.workdir"),
    *("student.init", "distributed.coordinator", "data.options"),
)


def read_record(
    file: pathlib.Path, sections: Collection[str] | None = None
) -> ConfigDict:
    """Returns the config in a run's ``config.json``.

    Import paths in it are not imported.

    Args:
      file: the ``config.json`` of a workdir.
      sections: names of the sections to read, or None for all. Other sections get
        their defaults.

    Raises:
      ValueError: The file is not the record of a run, an earlier version than
        :data:`OLDEST` wrote it, or it holds unknown fields or values of wrong types.
      OSError: The file cannot be read.
    """
    from .defaults import base  # imports JAX

    try:
        record = valid_json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: found no readable JSON: {error}") from None
    config = base()
    if not isinstance(record, dict) or not {"data", "student", "train"} <= set(record):
        raise ValueError(
            f"{file}: found no fields data, student and train, expected the "
            "config.json of a run"
        )
    check_version(file, record)
    for key, value in record.items():
        if key not in FACTS and (sections is None or key in sections):
            _set(config, file, key, value)
    return config


def check_version(file: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Raises an error if a ``config.json`` was written by a version that is too old.

    Args:
      file: the ``config.json`` of a workdir, for the message.
      record: the content of the file.

    Raises:
      ValueError: The version is missing, or before :data:`OLDEST`.

    >>> check_version(pathlib.Path("run/config.json"), {"version": "0.4.1"})
    >>> check_version(  # doctest: +ELLIPSIS
    ...     pathlib.Path("run/config.json"), {"version": "0.3.0"})
    Traceback (most recent call last):
        ...
    ValueError: run/config.json: found version 0.3.0, expected 0.4 or later; choose ...
    """
    version = record.get("version", "none")
    numbers = re.match(r"(\d+)\.(\d+)", str(version))
    if numbers and tuple(map(int, numbers.groups())) >= OLDEST:
        return
    oldest = ".".join(map(str, OLDEST))
    raise ValueError(
        f"{file}: found version {version}, expected {oldest} or later; choose another "
        "--workdir, or go on with the version that began this run; weights that it "
        "exported still load"
    )


def _set(section: ConfigDict, file: pathlib.Path, path: str, value: Any) -> None:
    """Sets a field, or the fields of a section."""
    name = path.rpartition(".")[2]
    if name not in section:
        raise ValueError(f"{file}: found the field {path}, expected no such field")
    if isinstance(section[name], ConfigDict) and not isinstance(value, dict):
        raise ValueError(f"{file}: found {path} {value!r}, expected an object")
    field = FIELDS.get(path)
    if field and path != "methods" and isinstance(field.default, Mapping):
        with section.unlocked():  # its names are those of a function's arguments
            section[name] = ConfigDict(as_tuples(value))
        return
    if isinstance(section[name], ConfigDict):
        for key, inner in value.items():
            _set(section[name], file, f"{path}.{key}", inner)
        return
    try:
        if value is None and section[name] is not None:
            raise TypeError
        section[name] = as_tuples(value)
    except (TypeError, ValueError):
        kind = field.kind if field else section.get_type(name)
        shown = "null" if value is None else repr(value)
        raise ValueError(
            f"{file}: {path}: found {shown}, expected {expected(kind)}"
        ) from None


def as_tuples(value: Any) -> Any:
    """Returns a value with all lists replaced by tuples, as configs hold them.

    Args:
      value: a value read from JSON. Nested lists are replaced too.

    >>> as_tuples({"a": [1, [2]]})
    {'a': (1, (2,))}
    """
    if isinstance(value, list | tuple):
        return tuple(map(as_tuples, value))
    if isinstance(value, Mapping):
        return {k: as_tuples(v) for k, v in value.items()}
    return value


def import_paths(values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the import paths in a config, by the path of the field.

    Args:
      values: the config of a run, as a dict. Fields whose value is never imported are
        left out.

    >>> import_paths({"student": {"model": "pkg.nets:make"}, "seed": 0})
    {'student.model': 'pkg.nets:make'}
    """
    return dict(_paths(values, ""))


def _paths(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            field = f"{at}.{key}" if at else str(key)
            if ":" in str(key):  # an evaluation is named by its key
                yield field, str(key)
            if field not in NOT_IMPORTED:
                yield from _paths(inner, field)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner, at)
    elif isinstance(value, str) and _is_path(value):
        yield at, value


def _is_path(text: str) -> bool:
    # TFDS downloads and imports the code of a data set in a namespace. What follows a
    # colon in another name there is a version.
    in_namespace = re.match(r"tfds/[^/:]*:(?![0-9*])", text) is not None
    return ":" in text.partition("/")[0] or in_namespace


def check_named(paths: Mapping[str, str], fields_set: Collection[str]) -> None:
    """Raises an error if only a file names an import path.

    Importing runs code, so the caller must name the import path too.

    Args:
      paths: import paths in a ``config.json``, by the path of the field.
      fields_set: paths of the fields that the command line or the caller sets.

    Raises:
      ValueError: A path is not set by hand; the message names the flag to add.
    """
    for field, path in paths.items():
        if not any(
            name == field or name.startswith(f"{field}.") for name in fields_set
        ):
            raise ValueError(
                f"{field}: found the import path {path!r} in a config.json, expected "
                "the command to name it too, because importing runs code: add "
                f"--config.{field}={path}"
            )
