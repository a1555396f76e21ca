"""Functions by name, from a table or by import path, and their options."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from .bounds import Positive, problems  # noqa: F401  for the example

Function = Callable[..., Any]  # anything with a signature


def find(name: str, table: Mapping[str, Function], field: str) -> Function:
    """Returns the function of a name, from a table or by import path.

    Do not pass a name that a file holds: an import path runs what it names.

    Args:
      name: a key of ``table``, or ``package.module:name``, which is imported.
      table: functions by name.
      field: path of the config's field that holds the name, for messages.

    Raises:
      ValueError: There is no such function, or its module raises when imported.

    >>> find("math:sqrt", {}, "task.name")(4.0)
    2.0
    """
    if name in table:
        return table[name]
    module, separator, attribute = str(name).partition(":")
    if not (separator and module and attribute):
        raise ValueError(
            f"{field}: found {name!r}, expected one of {list(table)} or "
            "'package.module:name'"
        )
    try:
        function: object = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of somebody else raises
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{field}: found {name!r}, which gives {reason}") from error
    if not callable(function):
        raise ValueError(
            f"{field}: found {name!r}, a {type(function).__name__}, expected a function"
        )
    return function


def keywords(function: Function, positional: int = 1) -> dict[str, Any]:
    """Returns the arguments of a function that can be passed by name, with defaults.

    An argument without a default has ``inspect.Parameter.empty``.

    Args:
      function: anything with a signature.
      positional: number of arguments that are passed by position, and left out here.

    >>> keywords(lambda meta, *, width=4: None)
    {'width': 4}
    """
    parameters = list(inspect.signature(function).parameters.values())
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ordered = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    first = {p.name for p in ordered[:positional]}
    return {
        p.name: p.default for p in parameters if p.kind in kinds and p.name not in first
    }


def takes_any(function: Function) -> bool:
    """Returns whether a function takes arguments of any name."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def call(function: Function, options: Mapping[str, Any], field: str, *args: Any) -> Any:
    """Calls a function with options that were checked against its arguments.

    Args:
      function: ``(*args, **options) -> anything``.
      options: arguments by name.
      field: path of the config's section that holds the options, for messages.
      *args: arguments that are passed by position.

    Raises:
      ValueError: The function does not take an option or lacks one, or a value is not
        of the type with which its argument is annotated; a line for each.

    >>> call(lambda meta, *, width=4: width, {"wdth": 2}, "student.options", {})
    Traceback (most recent call last):
    ValueError: student.options: found ['wdth'], expected any of ['width']
    >>> def task(meta, *, tau: Positive = 1.0):
    ...     return tau
    >>> call(task, {"tau": -1.0}, "task.options", {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: task.options.tau: found -1.0, expected a number above 0 and ...
    >>> def method(*, distance="mse"):
    ...     return find(distance, {"mse": min}, "distance")
    >>> call(method, {"distance": "l2"}, "methods.own")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: methods.own.distance: found 'l2', expected one of ['mse'] or ...
    """
    try:
        accepted = keywords(function, len(args))
    except ValueError:  # of a built-in function
        raise ValueError(
            f"{field}: found {function!r}, expected a function whose arguments can be "
            "read"
        ) from None
    unknown = sorted(set(options) - set(accepted))
    if unknown and not takes_any(function):
        raise ValueError(
            f"{field}: found {unknown}, expected any of {sorted(accepted)}"
        )
    empty = inspect.Parameter.empty
    missing = [n for n, d in accepted.items() if d is empty and n not in options]
    if missing:
        raise ValueError(f"{field}: found no {missing[0]!r}, expected a value")
    wrong = problems(argument_types(function), options, field)
    if wrong:
        raise ValueError("\n".join(wrong))
    try:
        return function(*args, **options)
    except TypeError as error:  # arguments of another kind than it can be given
        raise ValueError(f"{field}: {error}") from error
    except ValueError as error:
        if str(error).partition(":")[0] in accepted:  # an argument, named by itself
            raise ValueError(f"{field}.{error}") from error
        raise


def argument_types(function: Function) -> dict[str, Any]:
    """Returns the types of a function's annotated arguments, by name.

    An annotation that is a text is left out.

    Args:
      function: anything with a signature.

    >>> def scaled(x, *, factor: float = 2.0):
    ...     return factor * x
    >>> argument_types(scaled)
    {'factor': <class 'float'>}
    """
    parameters = inspect.signature(function).parameters.values()
    empty = inspect.Parameter.empty
    return {
        p.name: p.annotation
        for p in parameters
        if p.annotation is not empty and not isinstance(p.annotation, str)
    }
