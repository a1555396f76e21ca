"""Types of options that say which values they take, and the check of a value.

A function's argument, or a field of a Flax module, that is annotated with one of these
is checked by :func:`diffkd_jax.named.call`, whoever wrote the function.
"""

import functools
from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

import pydantic
from pydantic import AfterValidator, Field

# Numbers: from 0 to 1, from 0 to less than 1, above 0, from 0 on.
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# Factor of the channels or layers of a network.
Factor = Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)]
# Channels, and steps of a dilated convolution.
Channels = Annotated[int, Field(ge=1, le=2**14)]
Dilation = Annotated[int, Field(ge=1, le=256)]


def _two_or_none(sides: tuple[int, ...]) -> tuple[int, ...]:
    if len(sides) not in (0, 2):
        raise ValueError("a height and a width in pixels, or ()")
    return sides


# Height and width in pixels, or ().
Size = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**14)], ...], AfterValidator(_two_or_none)
]


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter:
    """Returns what checks a type; of a class that pydantic does not know, nothing."""
    try:
        return pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(strict=True))
    except pydantic.errors.PydanticSchemaGenerationError:
        return pydantic.TypeAdapter(Any)


def problem(kind: Any, value: Any) -> str:
    """Returns what was expected in place of a value, or "".

    Lists are accepted as tuples, because JSON has no tuples.

    Args:
      kind: a type, maybe with its range.
      value: to check.

    >>> problem(Share, 0.5), problem(Share, 2.0)
    ('', 'less than or equal to 1')
    >>> problem(Size, 16), problem(tuple[Share, Share], [1.0])
    ('a valid tuple', '2 values')
    """
    try:
        _adapter(kind).validate_python(_as_tuples(value))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] in ("missing", "too_long", "too_short"):
            return f"{_length(kind)} values"
        text = str(first["msg"])
        return text.removeprefix("Input should be ").removeprefix("Value error, ")
    return ""


def problems(kinds: Mapping[str, Any], values: Mapping[str, Any], at: str) -> list[str]:
    """Returns a line for each value that is not of its type.

    Args:
      kinds: types by name.
      values: by name; those without a type are not checked.
      at: field of the config that holds them, for messages.

    >>> problems({"tau": Positive}, {"tau": -1.0}, "methods.kd")
    ['methods.kd.tau: found -1.0, expected greater than 0']
    """
    texts = {k: problem(kinds[k], v) for k, v in values.items() if k in kinds}
    return [
        f"{at}.{name}: found {values[name]!r}, expected {text}"
        for name, text in texts.items()
        if text
    ]


def _length(kind: Any) -> int:
    """Returns how many values a tuple of this type, or of it and None, has."""
    inner = [k for k in get_args(kind) if get_origin(k) is tuple]
    return len(get_args(inner[0] if inner else kind))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
