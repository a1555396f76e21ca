"""Types that say which values they take, the check of a value, and its words.

A function's argument, or a field of a Flax module, that is annotated with one of these
is checked by :func:`diffkd_jax.named.call`, whoever wrote the function. Fields of a
config have types of the same kind.
"""

import functools
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pydantic
from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

# Numbers: from 0 to 1, from 0 to less than 1, above 0, from 0 on.
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Part = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# Alpha of the Beta distribution of mixup and CutMix.
Alpha = Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)]
# Factor of the channels or layers of a network.
Factor = Annotated[float, Field(gt=0, le=8, allow_inf_nan=False)]
# Channels, and steps of a dilated convolution.
Channels = Annotated[int, Field(ge=1, le=2**14)]
Dilation = Annotated[int, Field(ge=1, le=256)]


class Words(NamedTuple):
    """The mark of a type whose ranges do not tell what it takes."""

    text: str


def _two_or_none(sides: tuple[int, ...]) -> tuple[int, ...]:
    if len(sides) not in (0, 2):
        raise ValueError
    return sides


# Height and width in pixels, or ().
Size = Annotated[
    tuple[Annotated[int, Field(ge=1, le=2**14)], ...],
    AfterValidator(_two_or_none),
    Words("() or a height and a width in pixels"),
]


_NAMES = {int: "an integer", float: "a number", str: "a text", tuple: "a tuple"}
_NAMES |= {bool: "True or False"}
_ENDS = {Ge: ("ge", "at least"), Gt: ("gt", "above")}
_ENDS |= {Le: ("le", "at most"), Lt: ("lt", "below")}


def expected(kind: Any) -> str:
    """Says which values a type takes, or "" for a type without words.

    >>> expected(Share), expected(Channels | None)
    ('a number at least 0 and at most 1', 'an integer at least 1 and at most 16384')
    >>> expected(Literal["full", "none"]), expected(tuple[str, ...])
    ("one of ['full', 'none']", 'a tuple, each value a text')
    """
    kind, marks = _unpacked(kind)
    for mark in marks:
        if isinstance(mark, Words):
            return mark.text
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return f"one of {list(inner)}"
    if get_origin(kind) is tuple:
        number = "a tuple" if inner[-1] is Ellipsis else f"{len(inner)} values"
        return f"{number}, each value {expected(inner[0])}"
    if get_origin(kind) in (Union, UnionType):
        texts = [expected(k) for k in inner if k is not NoneType]
        return " or ".join(texts) if all(texts) else ""
    if kind not in _NAMES:
        return ""
    ends = (
        f"{text} {_shown(getattr(mark, name))}"
        for mark in marks
        for end, (name, text) in _ENDS.items()
        if isinstance(mark, end)
    )
    return f"{_NAMES[kind]} {' and '.join(ends)}".rstrip()


def plain_type(kind: Any) -> type:
    """Returns the class of the values of a type, without marks, ranges and None.

    >>> plain_type(Share | None), plain_type(Literal["full", "none"])
    (<class 'float'>, <class 'str'>)
    """
    kind, _ = _unpacked(kind)
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return type(inner[0])
    if get_origin(kind) in (Union, UnionType):
        return plain_type(next(k for k in inner if k is not NoneType))
    plain: type = get_origin(kind) or kind
    return plain


def _unpacked(kind: Any) -> tuple[Any, list[Any]]:
    """Returns a type without its marks, and the marks."""
    if get_origin(kind) is not Annotated:
        return kind, []
    kind, *marks = get_args(kind)
    flat: list[Any] = []
    for mark in marks:
        flat += mark.metadata if isinstance(mark, FieldInfo) else [mark]
    inner, more = _unpacked(kind)
    return inner, more + flat


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@functools.cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Returns the check of a type. It accepts all if pydantic does not know a class."""
    try:
        return pydantic.TypeAdapter(kind, config=pydantic.ConfigDict(strict=True))
    except pydantic.errors.PydanticSchemaGenerationError:
        return pydantic.TypeAdapter(Any)


def problem(kind: Any, value: Any) -> str:
    """Returns what was expected in place of a value, or "".

    Lists are accepted as tuples, because JSON has no tuples.

    Args:
      kind: a type, maybe with its range.
      value: the value to check.

    >>> problem(Share, 0.5), problem(Share, 2.0)
    ('', 'a number at least 0 and at most 1')
    >>> problem(Size, 16)
    '() or a height and a width in pixels'
    """
    try:
        _adapter(kind).validate_python(_as_tuples(value))
    except pydantic.ValidationError as error:
        text = str(error.errors(include_url=False)[0]["msg"])
        return expected(kind) or text.removeprefix("Input should be ")
    return ""


def problems(kinds: Mapping[str, Any], values: Mapping[str, Any], at: str) -> list[str]:
    """Returns a line for each value that is not of its type.

    Args:
      kinds: types by name.
      values: values by name; those without a type are not checked.
      at: field of the config that holds them, for messages.

    >>> problems({"tau": Positive}, {"tau": -1.0}, "methods.kd")
    ['methods.kd.tau: found -1.0, expected a number above 0 and at most 1e+06']
    """
    texts = {k: problem(kinds[k], v) for k, v in values.items() if k in kinds}
    return [
        f"{at}.{name}: found {values[name]!r}, expected {text}"
        for name, text in texts.items()
        if text
    ]


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
