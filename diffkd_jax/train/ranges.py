"""Which values the fields of a config may have, alone and beside each other."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..core.step import MAX_SEED
from ..data.fields import RANGES as OF_DATA
from ..data.fields import tuple_fault
from ..data.transforms.images import AUGMENTS
from .optimizer import SCHEDULES


class Range(NamedTuple):
    """Numbers from ``least`` to ``most``.

    Attributes:
      least, most: its ends.
      above: whether ``least`` itself is out, and ``below`` likewise of ``most``.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether it is a finite number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        least = f"{'above' if self.above else 'at least'} {_shown(self.least)}"
        if math.isinf(self.most):
            return f"a number {least}"
        most = f"{'below' if self.below else 'at most'} {_shown(self.most)}"
        return f"a number {least} and {most}"


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


ANY = Range(0)
SHARE, PART = Range(0, 1), Range(0, 1, below=True)
RECIPE = {
    "train.max_steps": ANY,
    "train.label_smoothing": PART,
    "train.ema_decay": PART,
    "mix.mixup": Range(0, 1e3),
    "mix.cutmix": Range(0, 1e3),
    "mix.switch": SHARE,
    "mix.erase": SHARE,
    "optimizer.learning_rate": Range(0, 1e6, above=True),
    "optimizer.momentum": PART,
    "optimizer.weight_decay": Range(0, 1e6),
    "optimizer.clip_norm": ANY,
    "optimizer.decay": PART,
    "optimizer.epsilon": Range(0, 1, above=True),
    "schedule.factor": Range(0, 1, above=True),
    "schedule.every_epochs": Range(0, 1e6),
    "schedule.end": ANY,
    "schedule.power": Range(0, 100, above=True),
    "schedule.warmup_epochs": Range(0, 1e6),
    "schedule.warmup_start": ANY,
    **{f"data.{name}": Range(*ends) for name, ends in OF_DATA.items()},
}
RANGES = RECIPE | {
    "seed": Range(0, MAX_SEED),
    "num_devices": Range(0, 2**20),
    "mesh.fsdp": Range(1, 2**20),
    "mesh.fsdp_min_bytes": Range(1),
    "distributed.num_processes": Range(0, 2**20),
    "distributed.process_id": Range(-1, 2**20),
    "distributed.start_seconds": Range(1, 1e6),
    "distributed.lost_seconds": Range(2, 1e6),
    "log_every_steps": Range(1, 1e9),
    "eval_every_epochs": Range(0, 1e6, above=True),
    "checkpoint.every_minutes": Range(0, 1e6),
    "teacher.num_classes": Range(0, 2**24),
    "teacher.epochs": Range(0, 1e6),
    "teacher.min_score": Range(-math.inf),
    "train.epochs": Range(0, 1e6),
    "train.norm_group_size": ANY,
    "train.max_skipped": Range(0, 1e9),
    "train.distill_every": Range(1, 1e9),
    "train.chance_evaluations": Range(0, 1e9),
}
WEIGHT = Range(0, 1e6)
# Sections of a teacher's own recipe.
OF_TEACHER = tuple(
    f"teacher.{name}." for name in ("train", "schedule", "optimizer", "mix", "data")
)
MAY_LACK = ("teacher.min_score",)
PATTERNS = ("optimizer.frozen", "student.inherit", "student.init_leave_out")
CHOICES = {
    "data.augment": AUGMENTS,
    "data.interpolation": ("bilinear", "bicubic"),
    "data.channels": (0, 3),
    "student.dtype": ("float32", "bfloat16", "float16"),
    "teacher.dtype": ("float32", "bfloat16", "float16"),
    "teacher.weights": ("", "ema"),
    "schedule.name": SCHEDULES,
    "mode": ("train", "evaluate", "predict"),
}
# Sections whose names are those of functions' arguments, or of losses.
OPEN = (
    *("student.options", "teacher.options", "task.options", "data.options"),
    *("methods", "method_options", "weights", "evaluations"),
)


def check(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses values out of range, or that do not go together.

    Args:
      values: of all fields, by their paths.
      defaults: of all fields that there are.

    Raises:
      ValueError: names each field, what was found and what was expected.

    >>> check({"seed": -1, "mode": "train"}, {"seed": 0, "mode": "train"})
    Traceback (most recent call last):
    ValueError: seed: found -1, expected a number at least 0 and at most 2147483647
    """
    found = [*_unknown(values, defaults), *_alone(values)]
    # Fields are put beside each other where each of them may be what it is.
    found = found or list(_together(values))
    if found:
        raise ValueError("\n".join(found))


def _unknown(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if name.startswith("evaluations."):
            key = name.split(".")[2:]
            if key not in (["every_epochs"], ["split"], ["of"]):
                yield (
                    f"{name}: found {value!r}, expected the fields every_epochs, "
                    "split and of"
                )
            elif key == ["every_epochs"] and not RANGES["train.epochs"].holds(value):
                yield f"{name}: found {value!r}, expected {RANGES['train.epochs']}"
            elif key != ["every_epochs"] and not isinstance(value, str):
                yield f"{name}: found {value!r}, expected a text"
        if name in defaults:
            continue
        prefix = ".".join(name.split(".")[:2]) + "."
        known = [n.removeprefix(prefix) for n in defaults if n.startswith(prefix)]
        if name.startswith("methods.") and known:
            yield f"{name}: found {value!r}, expected any of {known}"
        elif not name.startswith(OPEN):
            yield f"{name}: found {value!r}, expected no such field"


def _alone(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        own = name.startswith(OF_TEACHER)
        may_lack = own or name in MAY_LACK
        field = name.removeprefix("teacher.") if own else name
        allowed = (RECIPE if own else RANGES).get(field)
        if name.startswith("weights.") and not callable(value):
            allowed = WEIGHT
        if own and _is_other_kind(value, values.get(field)):
            kind = type(values[field]).__name__
            yield f"{name}: found {value!r}, expected {kind}, as {field}"
            continue
        if allowed and not allowed.holds(value) and not (value is None and may_lack):
            yield f"{name}: found {value!r}, expected {allowed}"
        if name.startswith("task.options."):
            last = name.rpartition(".")[2]
            like = RECIPE.get(f"mix.{last}") or RECIPE.get(f"train.{last}")
            if like and not like.holds(value):
                yield f"{name}: found {value!r}, expected {like}"
        options = CHOICES.get(name if name in CHOICES or not own else field)
        if options and value not in options and not (value is None and may_lack):
            yield f"{name}: found {value!r}, expected one of {list(options)}"
        fault = tuple_fault(field.removeprefix("data."), value)
        if field.startswith("data.") and fault and value is not None:
            yield f"{name}: {fault}"
        if field in ("data.mean", "data.std") and value is not None:
            yield from _statistics(name, value)
        texts = isinstance(value, tuple) and all(isinstance(v, str) for v in value)
        if name in (*PATTERNS, "compare") and not texts:
            yield f"{name}: found {value!r}, expected a tuple of texts"
        if field == "schedule.boundaries" and value is not None:
            yield from _boundaries(name, value)
        if field == "distributed.local_devices" and not (
            isinstance(value, tuple) and all(map(Range(0, 2**20).holds, value))
        ):
            yield f"{name}: found {value!r}, expected a tuple of devices' numbers"


def _is_other_kind(value: Any, like: Any) -> bool:
    """Whether a value is no text, truth or tuple where another is."""
    kinds: tuple[type, ...] = (bool, str, tuple)
    return value is not None and any(
        isinstance(value, kind) != isinstance(like, kind) for kind in kinds
    )


def _statistics(name: str, value: Any) -> Iterator[str]:
    allowed = Range(0, 1, above=name.endswith("std"))
    if not value or not all(map(allowed.holds, value)):
        yield (
            f"{name}: found {value!r}, expected numbers {str(allowed)[9:]}, one or one "
            "a channel: levels of 0 to 255 are brought to 0 to 1 before"
        )


def _boundaries(name: str, value: Any) -> Iterator[str]:
    good = isinstance(value, tuple | list) and all(map(ANY.holds, value))
    if not good or list(value) != sorted(set(value)):
        yield f"{name}: found {value!r}, expected epochs, numbers from 0 on that rise"


def _together(values: Mapping[str, Any]) -> Iterator[str]:
    yield from _recipe(values, values.get("train.epochs"), "", "train.epochs")
    epochs = values.get("teacher.epochs")
    if epochs:
        own = {
            name: values.get(f"teacher.{name}")
            if values.get(f"teacher.{name}") is not None
            else values.get(name)
            for name in RECIPE | dict.fromkeys(("schedule.name", "schedule.boundaries"))
        }
        yield from _recipe(own, epochs, "teacher.", "teacher.epochs")


def _recipe(
    values: Mapping[str, Any], epochs: Any, prefix: str, of: str
) -> Iterator[str]:
    name, rate = values.get("schedule.name"), values.get("optimizer.learning_rate")
    if name == "exponential" and not values["schedule.every_epochs"]:
        yield (
            f"{prefix}schedule.every_epochs: found 0, expected above 0 for the "
            "schedule 'exponential'"
        )
    warmup = values.get("schedule.warmup_epochs") or 0
    if epochs and warmup > epochs:
        yield (
            f"{prefix}schedule.warmup_epochs: found {warmup}, expected at most "
            f"{epochs}, {of}"
        )
    for end, counts in (
        ("end", name in ("cosine", "poly")),
        ("warmup_start", warmup > 0),
    ):
        value = values.get(f"schedule.{end}") or 0
        if counts and rate is not None and value > rate:
            yield (
                f"{prefix}schedule.{end}: found {value}, expected at most {rate}, "
                "optimizer.learning_rate"
            )
