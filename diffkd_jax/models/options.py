"""Checks of the options of built-in models, which may come from a file."""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_origin

import flax.linen as nn
import jax.numpy as jnp

from ..bounds import problem

DTYPES = ("float32", "bfloat16", "float16", "float64")
# Upper limits: larger values could take any time or memory before the shapes are known.
LARGEST = {"tower_depth": 32, "window": 32}
LARGEST |= {"before_nms": 2**14, "proposals": 2**14, "samples": 2**14}
LARGEST |= {"roi_size": 32, "sampling_ratio": 16}
LARGEST_NUMBER = 2**20
MOST_ITEMS = 16  # in a tuple without a fixed length


def option_names(make: Callable[..., nn.Module]) -> dict[str, Any]:
    """Returns the options of a model, and their types.

    Args:
      make: an entry of :data:`diffkd_jax.models.MODELS`.

    Returns:
      The type of each option, by name. Options are the fields of the module, without
      those whose value the entry fixes.

    >>> from diffkd_jax.models import MODELS
    >>> "width" in option_names(MODELS["mobilenet_v2"])
    True
    """
    cls: Any = make
    fixed: tuple[Any, ...] = ()
    if isinstance(make, partial):
        cls, fixed = make.func, make.args
    fields = {f.name: f.type for f in dataclasses.fields(cls)[len(fixed) :]}
    excluded = {"num_classes", "parent", "name"}
    if hasattr(cls, "unused_options"):
        excluded |= cls.unused_options(*fixed)
    return {name: kind for name, kind in fields.items() if name not in excluded}


def check_options(make: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Raises an error if an option is unknown or out of its range.

    Args:
      make: an entry of :data:`diffkd_jax.models.MODELS`.
      options: values by name.

    Raises:
      ValueError: an unknown option, or a value of another type or range.

    >>> from diffkd_jax.models import MODELS
    >>> check_options(MODELS["swin_t"], {"window": 7, "dtype": "bfloat16"})
    """
    fields = option_names(make)
    for name, value in options.items():
        if name not in fields:
            raise ValueError(
                f"options: found {reprlib.repr(name)}, expected any of {list(fields)}"
            )
        kind = fields[name]
        wrong = _problem(kind, value, LARGEST.get(name, LARGEST_NUMBER))
        if wrong:
            text = reprlib.repr(value)
            raise ValueError(f"options.{name}: found {text}, expected {wrong}")


def _problem(kind: Any, value: Any, largest: int) -> str:
    """Describes the values that an option takes; "" if ``value`` is one of them."""
    if get_origin(kind) is Annotated:
        return problem(kind, value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is Any:  # dtype
        good = value is None or _is_float_dtype(value)
        return "" if good else f"one of {list(DTYPES)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    if kind is float:
        number = whole or (isinstance(value, float) and math.isfinite(value))
        return "" if number and 0 <= value <= largest else f"0 to {largest}"
    if kind is int:
        good = whole and 1 <= value <= largest
        return "" if good else f"a whole number, 1 to {largest}"
    if get_origin(kind) is Literal:
        texts = [choice for choice in kind.__args__ if choice == value]
        return "" if texts else f"one of {list(kind.__args__)}"
    if type(None) in kind.__args__:  # or None
        return "" if value is None else _problem(kind.__args__[0], value, largest)
    if kind.__args__[-1] is ...:  # a tuple of any length
        if not isinstance(value, tuple | list) or not 1 <= len(value) <= MOST_ITEMS:
            return f"1 to {MOST_ITEMS} values"
        problems = (_problem(kind.__args__[0], item, largest) for item in value)
        return next(filter(None, problems), "")
    if any(get_origin(item) is Annotated for item in kind.__args__):
        return problem(kind, value)
    many = len(kind.__args__)  # a tuple of ints
    good = isinstance(value, tuple | list) and len(value) == many
    good = good and not any(_problem(int, number, largest) for number in value)
    return "" if good else f"{many} whole numbers, 1 to {largest}"


def _is_float_dtype(value: Any) -> bool:
    """Tells whether a value is a floating dtype or the name of one."""
    # Strings are compared, never parsed: NumPy would accept many other spellings.
    if isinstance(value, str):
        return value in DTYPES
    try:
        return jnp.issubdtype(value, jnp.floating)
    except TypeError:
        return False
