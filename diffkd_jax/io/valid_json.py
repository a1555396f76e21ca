"""JSON that every reader accepts: undefined numbers are null, never NaN or Infinity."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def dumps(
    value: Any,
    *,
    indent: int | None = None,
    default: Callable[[Any], Any] | None = None,
) -> str:
    """Returns JSON text in which numbers that are not finite are null.

    Args:
      value: dicts, lists, tuples, strings, numbers, booleans and None.
      indent: number of spaces for each level; None for one line.
      default: function that makes a JSON value of any other object, as in
        :func:`json.dumps`.

    >>> dumps({"ap": float("nan"), "counts": [1, float("inf")]})
    '{"ap": null, "counts": [1, null]}'
    """
    return json.dumps(_defined(value), indent=indent, default=default, allow_nan=False)


def loads(text: str | bytes) -> Any:
    """Returns the value of a JSON text; the words NaN and Infinity are read as None.

    Files of earlier versions hold these words.

    Args:
      text: JSON.

    Raises:
      ValueError: the text is not JSON.

    >>> loads('{"ap": NaN}')
    {'ap': None}
    """
    return json.loads(text, parse_constant=lambda word: None)


def undefined_as_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces None by NaN in the values of a dict, and in lists among them.

    Args:
      values: values by name.

    >>> undefined_as_nan({"step": 1, "ap": None, "counts": [1, None]})
    {'step': 1, 'ap': nan, 'counts': [1, nan]}
    """
    number = lambda value: math.nan if value is None else value
    return {
        name: [number(v) for v in value] if isinstance(value, list) else number(value)
        for name, value in values.items()
    }


def _defined(value: Any) -> Any:
    """Replaces numbers that are not finite by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
