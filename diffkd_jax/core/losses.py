"""Losses by name: whether they are what was promised, and their weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Weight = float | Callable[[jax.Array], jax.Array]


def merged(task: Any, terms: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The losses of the task and those of the taps in one dict.

    Raises:
      ValueError: those of the task are no dict of scalars, or a name is in both.

    >>> sorted(merged({"task": jnp.ones(())}, {"logits/distance": jnp.ones(())}))
    ['logits/distance', 'task']
    """
    if not isinstance(task, Mapping):
        raise ValueError(
            f"task_loss: found {_kind(task)}, expected a dict of scalars by name, such "
            "as {'task': loss}"
        )
    for name, value in task.items():
        if jnp.shape(value):
            raise ValueError(
                f"task_loss: found {name!r} of shape {jnp.shape(value)}, expected a "
                "scalar, such as its mean"
            )
    both = sorted(set(task) & set(terms))
    if both:
        raise ValueError(f"losses: found {both} in task and taps, expected other names")
    return {**task, **terms}


def weighable(losses: Mapping[str, Any]) -> set[str]:
    """Names that a weight can have: of these losses, and their parts before "/".

    >>> sorted(weighable({"task": 0, "x/distance": 0}))
    ['task', 'x', 'x/distance']
    """
    return {*losses, *(name.partition("/")[0] for name in losses)}


def weigh(
    losses: Mapping[str, jax.Array], weights: Mapping[str, Weight], step: jax.Array
) -> dict[str, jax.Array]:
    """Each loss times its weight; those not named count 1.

    Args:
      losses: scalars by name.
      weights: numbers, or schedules ``step -> number`` as optax has them. A name that
        is the part of a loss before "/" weighs all of these, besides their own:
        ``features`` those of the tap ``features``.
      step: number of updates done.

    Returns:
      By name; a loss of weight 1 is the very array that was given.

    Raises:
      ValueError: a weight for no loss.

    >>> losses = {"task": jnp.ones(()), "x/distance": jnp.ones(())}
    >>> out = weigh(losses, {"x": 2.0, "task": lambda step: 0.5 * step}, jnp.array(3))
    >>> float(out["task"]), float(out["x/distance"])
    (1.5, 2.0)
    """
    unknown = sorted(set(weights) - weighable(losses))
    if unknown:
        raise ValueError(f"weights: found {unknown}, expected names of {list(losses)}")
    weighted = {}
    for name, loss in losses.items():
        for part in dict.fromkeys((name, name.partition("/")[0])):
            weight = weights.get(part, 1.0)
            if callable(weight):
                loss = loss * weight(step)
            elif weight != 1.0:
                loss = loss * weight
        weighted[name] = loss
    return weighted


def check_student_result(result: Any) -> None:
    """ValueError unless it is what ``student_apply`` promises: outputs and state."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"student_apply: found {_kind(result)}, expected a pair (outputs, state): "
            "a dict of named arrays, and what is carried to the next step, {} for none"
        )
    check_outputs("student_apply", result[0])


def check_outputs(what: str, outputs: Any) -> None:
    """ValueError, naming ``what`` returned them, unless outputs are a dict."""
    if not isinstance(outputs, Mapping):
        raise ValueError(
            f"{what}: found outputs of {_kind(outputs)}, expected a dict of named "
            "arrays, such as {'features': x, 'logits': y}"
        )


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"an array of shape {shape}" if shape is not None else type(value).__name__
