"""The section ``comparison``: the rows of a comparison, its seeds and its lengths."""

import contextlib
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, Strict

from ..bounds import Words
from .section import Free, Section, optional
from .training import Optimizer, Schedule, Train

VariantTrain, VariantSchedule = optional(Train), optional(Schedule)
VariantOptimizer = optional(Optimizer)
SECTIONS = ("train", "schedule", "optimizer")
# Other names would be those of other files of the workdir, or of other rows' folders.
TAKEN = {"teacher", "plots", "lock", "checkpoints", "events"}
_FOLDER = re.compile(r"(?!.*-(?:time|seed\d+)\Z)[A-Za-z0-9][A-Za-z0-9_+-]{0,63}")


def _weight(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not callable(value) and not (number and 0 <= value <= 1e6):
        raise ValueError
    return value


def check_once(what: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Returns the values of a field, none of which may occur twice.

    Args:
      what: word for one value, for the message.
      values: the values.

    Raises:
      ValueError: a value occurs twice.

    >>> check_once("seed", (0, 1))
    (0, 1)
    """
    if len(set(values)) < len(values):
        raise ValueError(f"each {what} once")
    return values


Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Weight = Annotated[
    Any,
    AfterValidator(_weight),
    Words("a number at least 0 and at most 1e+06, or a function of the step"),
]


class Variant(Section):
    """A row of a comparison that differs from the config in what trains the student.

    A field that is not set has the value of the config.

    >>> Variant(method="kd", optimizer={"learning_rate": 0.05}).changes()
    {'method': 'kd', 'optimizer': {'learning_rate': 0.05}}
    """

    UNKNOWN: ClassVar[str] = (
        "one of method, methods, method_options, weights, train, schedule and "
        "optimizer; all rows of a comparison share the other fields"
    )

    method: str = ""
    """Method; "" if the row has the name of one."""
    methods: Mapping[str, Mapping[str, Any]] = {}
    """Arguments of each method's function."""
    method_options: Mapping[str, Any] = {}
    """Arguments of a method that is named by import path."""
    weights: Mapping[str, Weight] = {}
    """Weights of losses."""
    train: VariantTrain = VariantTrain()  # type: ignore[valid-type]
    schedule: VariantSchedule = VariantSchedule()  # type: ignore[valid-type]
    optimizer: VariantOptimizer = VariantOptimizer()  # type: ignore[valid-type]

    def changes(self) -> dict[str, Any]:
        """Returns the values that are set, as nested dicts."""
        return self.model_dump(exclude_defaults=True)


class Comparison(Section):
    """The seeds and the lengths of the runs of a comparison, and rows of its own."""

    seeds: Annotated[
        tuple[Seed, ...],
        Strict(False),
        AfterValidator(functools.partial(check_once, "seed")),
        Words("a tuple of integers at least 0 and at most 2147483647"),
        Free,
    ] = ()
    """Seeds with which each method is trained; () for the field seed alone."""
    budget: Annotated[
        tuple[Literal["steps", "time"], ...],
        Strict(False),
        Field(min_length=1),
        AfterValidator(functools.partial(check_once, "budget")),
        Words("'steps', 'time' or both"),
        Free,
    ] = ("steps",)
    """Quantity of which all methods get the same: steps, time of training, or first
    one, then the other."""
    variants: Mapping[str, Variant] = {}
    """Rows beside the methods, by name: a part of a config each, such as
    comparison.variants.half.method=diffkd and
    comparison.variants.half.methods.diffkd.gamma=0.5, with half in compare."""


def name_faults(
    variants: Mapping[str, Variant], rows: tuple[str, ...]
) -> Iterator[str]:
    """Yields an error line for each variant whose name cannot be that of a row.

    Args:
      variants: the variants by name.
      rows: the field ``compare``.

    >>> list(name_faults({"plots": Variant()}, ("plots",)))  # doctest: +ELLIPSIS
    ["comparison.variants: found the name 'plots', expected letters, digits, ..."]
    """
    for name in variants:
        if not _FOLDER.fullmatch(name) or name.lower() in TAKEN:
            yield (
                f"comparison.variants: found the name {name!r}, expected letters, "
                "digits, _, + and -, at most 64, for a folder; it may not end in -time "
                f"or -seedNUMBER, and may not be one of {sorted(TAKEN)}"
            )
        elif name not in rows:
            yield (
                f"comparison.variants: found {name!r}, which compare does not name, "
                f"expected it there; add it to --config.compare={','.join(rows)}"
            )


@contextlib.contextmanager
def prefix_variant_fields(row: str, variant: Variant | None) -> Iterator[None]:
    """Adds the path of a variant to the fields of it that an error names.

    Args:
      row: name of the row.
      variant: the variant of this name; None for a row without one.

    Yields:
      Nothing; the run of the row is built in the context.

    Raises:
      ValueError: an error of the context.

    >>> with prefix_variant_fields("a", Variant(weights={"task": 2.0})):
    ...     raise ValueError("weights.task: found 2.0")
    Traceback (most recent call last):
    ValueError: comparison.variants.a.weights.task: found 2.0
    """
    try:
        yield
    except ValueError as error:
        paths = [] if variant is None else list(_paths(variant.changes()))

        def prefixed(line: str) -> str:
            field = f"{line.partition(':')[0]}."
            is_set = any(p.startswith(field) or field.startswith(p) for p in paths)
            return f"comparison.variants.{row}.{line}" if is_set else line

        lines = str(error).splitlines()
        if (text := "\n".join(map(prefixed, lines))) == str(error):
            raise
        raise ValueError(text) from error


def _paths(changes: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Yields the path of each value in nested dicts, with a dot at its end."""
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{at}{name}.")
        else:
            yield f"{at}{name}."
