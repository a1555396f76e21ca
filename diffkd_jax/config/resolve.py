"""From the values of a config to its typed form: the one place that checks fields."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args, get_origin

import pydantic
from ml_collections import ConfigDict
from pydantic_core import ErrorDetails

from ..bounds import expected
from ..methods import CONTROLS, METHODS
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
        near = _known_fields(model, error["loc"], path)
        return f"{at}{path}: found {error['input']!r}, expected {near}"
    value = functools.reduce(lambda section, name: section[name], names, values)
    reason = str(error.get("ctx", {}).get("error", ""))
    wanted = reason or expected(kind) or "a mapping of names to values"
    return f"{at}{path}: found {value!r}, expected {wanted}"


def _known_fields(model: type[Section], loc: tuple[int | str, ...], path: str) -> str:
    """Returns the part of a message that says which fields there are."""
    _, kind = _field_at(model, loc[:-1])
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        kind = model
    if words := getattr(kind, "UNKNOWN", ""):
        return words
    names = [field.path for field in fields_of(model)]
    if not any(name.startswith(path.rpartition(".")[0]) for name in names):
        path, names = str(loc[-1]), list(kind.model_fields)  # in a mapping
    return suggest_fields(path, names)


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
    variants = _inner(_inner(values, "comparison"), "variants")
    compared = values.get("compare")
    yield from _name_faults("method", values.get("method"))
    for row in compared if isinstance(compared, list | tuple) else ():
        if row not in variants:
            yield from _name_faults("compare", row, list(variants))
    yield from _option_faults("", _inner(values, "methods"))
    for row, variant in variants.items():
        if isinstance(variant, Mapping):
            yield from _variant_faults(row, variant, _inner(values, "methods"))


def _inner(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a mapping in a mapping; an empty one if it is something else."""
    inner = values.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _name_faults(field: str, name: Any, variants: Iterable[str] = ()) -> Iterator[str]:
    """Yields an error line if a field names no method and no variant."""
    if isinstance(name, str) and name not in METHODS and ":" not in name:
        yield (
            f"{field}: found {name!r}, expected one of {[*METHODS, *variants]} or "
            "'package.module:name'"
        )


def _option_faults(at: str, methods: Mapping[str, Any]) -> Iterator[str]:
    """Yields an error line for each method in ``methods`` and option that is unknown.

    ``at`` is the prefix of the path.
    """
    for name, options in methods.items():
        yield from _name_faults(f"{at}methods", name)
        accepted = list(keywords(METHODS[name])) if name in METHODS else []
        for option in options if isinstance(options, Mapping) else ():
            if name in METHODS and option not in accepted:
                yield (
                    f"{at}methods.{name}.{option}: found {options[option]!r}, expected "
                    f"any of {accepted}"
                )


def _variant_faults(
    row: str, variant: Mapping[str, Any], methods: Mapping[str, Any]
) -> Iterator[str]:
    """Yields an error line for each fault of a variant's method and its options.

    ``methods`` are the options of all methods in the config.
    """
    at, method = f"comparison.variants.{row}.", variant.get("method") or row
    if not variant.get("method") and row not in METHODS:
        yield (
            f"{at}method: found none, expected one of {list(METHODS)} or "
            f"'package.module:name', which {row!r} is not"
        )
        return
    if row in METHODS and method != row:
        yield (
            f"{at}method: found {method!r}, expected {row!r}, a method itself; choose "
            "another name for this row"
        )
        return
    yield from _name_faults(f"{at}method", method)
    options = _inner(variant, "methods")
    yield from _option_faults(at, options)
    of = {**_inner(methods, method), **_inner(options, method)}.get("of", "diffkd")
    used = [method, of] if method in CONTROLS else [method]
    for name in set(options) & set(METHODS) - set(used):
        yield (
            f"{at}methods.{name}: found options of a method that {row!r} does not use, "
            f"expected those of {' or '.join(map(str, used))}"
        )
