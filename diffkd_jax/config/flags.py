"""Flags of fields, ``--config.<field>=<value>``, and of options.

Options are arguments of a model, task, method or data set, such as
``--config.student.options.width=0.5``. A config names the model, so which
options exist is not known before the config is read. Options are therefore not parsed
as flags.
"""

import ast
import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

from absl import flags

from ..bounds import expected, plain_type
from .comparison import Variant
from .section import Section, suggest_fields
from .sections import FIELDS

# Fields of earlier versions, and the field that replaces each.
REPLACED = {"teacher.min_top1": "teacher.min_score"}
_PARSERS: dict[type, flags.ArgumentParser[Any]] = {
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
    bool: flags.BooleanParser(),
}
_FLAG = re.compile(r"--?(?:no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)


def _option_patterns() -> Iterator[str]:
    """Yields a pattern for the paths below each field that holds values by name."""
    for path, field in FIELDS.items():
        if isinstance(field.default, Mapping):
            inner = plain_type(get_args(field.kind)[1])
            nested = inner is Mapping or issubclass(inner, Section)
            # A variant holds a part of a config, with sections and mappings in it.
            depths = "{2,4}" if inner is Variant else "{2}" if nested else "{1}"
            yield re.escape(path) + r"(?:\.[^.]*)" + depths
            yield re.escape(path) + r"\[['\"][^'\"]*['\"]\]"


_OPTION = re.compile("|".join(_option_patterns()))
# Fields that hold several words.
_WORDS = {
    path
    for path, field in FIELDS.items()
    if get_origin(kind := (get_args(field.kind) or (field.kind,))[0]) is tuple
    and plain_type(get_args(kind)[0]) is str
}


def take_options(arguments: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Returns options, such as those of models, separately from other arguments.

    The value of an option is read as a Python literal (number, tuple, True, None), or
    as text if it is not a literal.

    Args:
      arguments: arguments of the command line.

    Returns:
      The other arguments, and a dict from the path of each option to its value.

    Raises:
      ValueError: A field is unknown or belongs to an earlier version, an option has no
        value, or a value has another type than its field. The message has one line for
        each.

    >>> take_options(["--a=1", "--config.student.options.width=0.5"])
    (['--a=1'], {'student.options.width': 0.5})
    >>> take_options(["--config.seed=one", "--config.teacher.seed=3"])
    Traceback (most recent call last):
    ValueError: seed: found 'one', expected an integer at least 0 and at most 2147483647
    teacher.seed: found '3', expected no such field; nearest: seed
    """
    others: list[str] = []
    options: dict[str, Any] = {}
    faults: list[str] = []
    for argument in arguments:
        match = _FLAG.fullmatch(argument)
        path, value = match.groups() if match else ("", None)
        if not match:
            others.append(argument)
        elif not _OPTION.fullmatch(path):
            faults += flag_faults(path, value)
            others.append(as_tuple_of_words(argument))
        elif value is None:
            faults.append(f"--config.{path}: found no value, expected {argument}=VALUE")
        else:
            name = re.sub(r"\[['\"](.*)['\"]\]", r".\1", path)
            options[name] = _option_value(name, value)
    if faults:
        raise ValueError("\n".join(faults))
    return others, options


def flag_faults(path: str, value: str | None) -> Iterator[str]:
    """Yields an error line if a flag names an unknown field or has a wrong value.

    Args:
      path: path of the field.
      value: text of the value. None if the flag has no "=": the value is then the next
        argument, or the flag stands for true. It is not checked here.
    """
    field, shown = FIELDS.get(path), "no value" if value is None else repr(value)
    if path in REPLACED:
        yield (
            f"--config.{path}: found a field of an earlier version, expected "
            f"--config.{REPLACED[path]}; use that one instead"
        )
    elif field is None:
        parent = FIELDS.get(path.rpartition(".")[0])
        is_mapping = parent is not None and isinstance(parent.default, Mapping)
        if not is_mapping and not any(name.startswith(f"{path}.") for name in FIELDS):
            yield f"{path}: found {shown}, expected {suggest_fields(path, FIELDS)}"
    elif value is not None and (parser := _PARSERS.get(plain_type(field.kind))):
        try:
            parser.parse(value)
        except (ValueError, TypeError):
            yield f"{path}: found {shown}, expected {expected(field.kind)}"


def as_tuple_of_words(argument: str) -> str:
    """Returns an argument with its list of words written as a Python tuple.

    Arguments of other fields are returned unchanged.

    Args:
      argument: one argument of the command line.

    >>> as_tuple_of_words("--config.compare=none,kd")
    "--config.compare=('none', 'kd')"
    >>> as_tuple_of_words("--config.compare=('none',)")
    "--config.compare=('none',)"
    """
    flag, separator, value = argument.partition("=")
    path = flag.lstrip("-").removeprefix("config.")
    if path not in _WORDS or not value or value.startswith(("(", "[")):
        return argument
    words = tuple(word.strip(" '\"") for word in value.split(",") if word.strip())
    return f"{flag}{separator}{words}"


def _option_value(path: str, text: str) -> Any:
    """Returns the value of an option; words between commas if its field holds them."""
    field = re.sub(r"^comparison\.variants\.[^.]*\.", "", path)
    if field in _WORDS:
        text = as_tuple_of_words(f"--config.{field}={text}").partition("=")[2]
    return _literal(text)


def _literal(text: str) -> Any:
    word = {"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return text


def set_options(config: Any, options: Mapping[str, Any]) -> None:
    """Sets options in a ``ConfigDict``.

    An option need not exist in it, and may have another type than before.

    Args:
      config: the config of the command line; it is changed.
      options: values by the path of the option, from :func:`take_options`.
    """
    with config.unlocked():
        for path, value in options.items():
            section, name, *option = path.split(".", 2)
            if section in ("evaluations", "methods", "comparison"):  # named by the flag
                _make_groups(config, path)
            if name == "options":  # whose types their functions know
                current = config[section].options
                if option[0] in current:
                    del current[option[0]]
            try:
                config.update_from_flattened_dict({path: value})
            except TypeError:  # the function that takes it says what it expects
                *groups, last = path.split(".")
                group = functools.reduce(lambda inner, n: inner[n], groups, config)
                del group[last]
                group[last] = value


def _make_groups(config: Any, path: str) -> None:
    """Adds the groups above an option to a ``ConfigDict``."""
    *groups, _ = path.split(".")
    for name in groups:
        config[name] = config.get(name, {})
        config = config[name]


def unknown_flag(name: str, flag_names: Iterable[str]) -> str:
    """Returns the message about an unknown flag, with the flags of similar names.

    Args:
      name: name of the unknown flag, without dashes.
      flag_names: names of the existing flags, besides those of fields.

    >>> unknown_flag("method", ["config"])
    '--method: found an unknown flag, expected --config.method'
    >>> unknown_flag("train.epochs", ["config"])
    '--train.epochs: found an unknown flag, expected --config.train.epochs'
    """
    flags = {path: f"config.{path}" for path in FIELDS} | {n: n for n in flag_names}
    near = [name] if name in FIELDS else []
    near = near or [
        path
        for path in FIELDS
        if path.rpartition(".")[2] == name and not path.startswith("teacher.")
    ]
    near = [flags[n] for n in near or difflib.get_close_matches(name, flags, 3)]
    shown = " or ".join(f"--{flag}" for flag in near) or "one that --helpfull lists"
    return f"--{name}: found an unknown flag, expected {shown}"
