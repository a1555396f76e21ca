"""From the values of a config to its typed form: the one place that checks fields."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

import pydantic
from ml_collections import ConfigDict
from pydantic_core import ErrorDetails

from ..bounds import expected
from ..methods import METHODS
from ..named import keywords
from .section import Section, fields_of, suggest_fields, type_of
from .sections import Config

S = TypeVar("S", bound=Section)


def resolve(config: Any) -> Config:
    """Checks a config and returns it as a :class:`diffkd_jax.config.sections.Config`.

    Args:
      config: a ``ConfigDict``, as recipes make it, or a mapping. A resolved config is
        returned unchanged.

    Raises:
      ValueError: Values are wrong. The message has one line for each: the path of the
        field, the value and what was expected.

    >>> from diffkd_jax.config import base
    >>> config = base()
    >>> config.seed, config.mix.switch = -1, 2.0
    >>> resolve(config)
    Traceback (most recent call last):
    ValueError: seed: found -1, expected an integer at least 0 and at most 2147483647
    mix.switch: found 2.0, expected a number at least 0 and at most 1
    """
    if isinstance(config, Config):
        return config
    values = as_mapping(config)
    if not isinstance(values, Mapping):
        raise ValueError(
            f"config: found {type(config).__name__}, expected a ConfigDict, as "
            "diffkd_jax.config.base() returns one"
        )
    return check_section(Config, values, "", _faults_of_methods(values))


def check_section(
    model: type[S], values: Any, at: str, faults: Iterable[str] = ()
) -> S:
    """Checks a section of a config and returns it as an instance of its class.

    Args:
      model: class of the section.
      values: values of the fields, a mapping or a ``ConfigDict``. An instance of a
        section is returned unchanged.
      at: path of the section with a dot at the end, or "" for a whole config.
      faults: error lines that were found before; they are added to the message.

    Raises:
      ValueError: Values are wrong, see :func:`resolve`.

    >>> from .data import DataConfig
    >>> check_section(DataConfig, {"paddings": 3}, "data.")
    Traceback (most recent call last):
    ValueError: data.paddings: found 3, expected no such field; nearest: padding
    """
    if isinstance(values, model):
        return values
    values, lines = as_mapping(values), list(faults)
    try:
        section = model.model_validate(values)
    except pydantic.ValidationError as error:
        ours = (_line(model, values, e, at) for e in error.errors(include_url=False))
        lines = list(dict.fromkeys([*ours, *lines]))
    if lines:
        raise ValueError("\n".join(lines))
    return section


def as_mapping(config: Any) -> Any:
    """Returns the values of a ``ConfigDict``, or of a section, as plain mappings."""
    if isinstance(config, Section):
        return config.model_dump()
    return config.to_dict() if isinstance(config, ConfigDict) else config


def _line(model: type[Section], values: Any, error: ErrorDetails, at: str) -> str:
    """Returns our error line for an error of pydantic."""
    if error["type"] == "rules":
        return str(error["ctx"]["lines"])
    names, kind = _field_at(model, error["loc"])
    path = ".".join(map(str, names))
    if error["type"] == "extra_forbidden":
        near = suggest_fields(path, (field.path for field in fields_of(model)))
        return f"{at}{path}: found {error['input']!r}, expected {near}"
    value = functools.reduce(lambda section, name: section[name], names, values)
    reason = str(error.get("ctx", {}).get("error", ""))
    wanted = reason or expected(kind) or "a mapping of names to values"
    return f"{at}{path}: found {value!r}, expected {wanted}"


def _field_at(
    model: type[Section], loc: tuple[int | str, ...]
) -> tuple[list[int | str], Any]:
    """Returns the path of the field, or of the value in a mapping, and its type.

    Places within a tuple are left out.
    """
    names: list[int | str] = []
    kind: Any = model
    for name in loc:
        if isinstance(kind, type) and issubclass(kind, Section):
            info = kind.model_fields.get(str(name))
            kind = None if info is None else type_of(info)
        elif get_origin(kind) is Mapping:
            kind = get_args(kind)[1]
        else:
            break
        names.append(name)
    return names, kind


def _faults_of_methods(values: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error line for each unknown method and each option that it lacks."""
    compared, methods = values.get("compare"), values.get("methods")
    names = [("method", values.get("method"))]
    names += [("compare", n) for n in compared] if isinstance(compared, tuple) else []
    names += [("methods", n) for n in methods] if isinstance(methods, Mapping) else []
    for field, name in names:
        if isinstance(name, str) and name not in METHODS and ":" not in name:
            yield (
                f"{field}: found {name!r}, expected one of {list(METHODS)} or "
                "'package.module:name'"
            )
    for name, options in methods.items() if isinstance(methods, Mapping) else ():
        accepted = list(keywords(METHODS[name])) if name in METHODS else []
        for option in options if isinstance(options, Mapping) else ():
            if name in METHODS and option not in accepted:
                yield (
                    f"methods.{name}.{option}: found {options[option]!r}, expected any "
                    f"of {accepted}"
                )
