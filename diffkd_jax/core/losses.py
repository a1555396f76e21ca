"""Losses by name: checks of what user code returns, and weights."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

Scalar = Float[Array, ""]
Weight = float | Callable[[jax.Array], jax.Array]


def merged(task: PyTree, terms: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Merges the losses of the task and of the taps into one dict.

    Args:
      task: the result of ``task_loss``, to be checked.
      terms: losses of the taps by name.

    Returns:
      Scalars by name.

    Raises:
      ValueError: ``task`` is not a dict of scalars, or a loss of the task has the
        name of a loss of a tap.

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


def weighable(losses: Mapping[str, PyTree]) -> set[str]:
    """Returns the names that weights can have.

    These are the names of the losses, and their parts before "/".

    Args:
      losses: losses by name; only the names are read.

    >>> sorted(weighable({"task": 0, "x/distance": 0}))
    ['task', 'x', 'x/distance']
    """
    return {*losses, *(name.partition("/")[0] for name in losses)}


def weigh(
    losses: Mapping[str, Scalar], weights: Mapping[str, Weight], step: Int[Array, ""]
) -> dict[str, Scalar]:
    """Multiplies each loss by its weight; losses without a weight are unchanged.

    Args:
      losses: scalars by name.
      weights: numbers, or schedules ``step -> number`` as in optax. The part of
        a name before "/" stands for all losses that begin with it: ``features`` for all
        losses of the tap ``features``. A loss with a weight of both kinds is multiplied
        by both.
      step: scalar, number of updates done.

    Returns:
      Weighted losses by name. A loss of weight 1 is the same array as before.

    Raises:
      ValueError: a weight for a loss that does not exist.

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


def warm_up(
    weights: Mapping[str, Weight], taps: Iterable[str], steps: int
) -> dict[str, Weight]:
    """Makes the weights of all distances rise linearly from 0 over the first steps.

    A block's own losses, such as the diffusion loss, keep their weights. So a block can
    learn for a while before its distance trains the student.

    Args:
      weights: weights by name, as :func:`weigh` takes them.
      taps: names of the taps; each has a loss ``<tap>/distance``.
      steps: number of updates until the weights are complete; 0 for no change.

    Returns:
      Weights by name. A distance of weight 0 keeps this weight.

    >>> rising = warm_up({"x/distance": 2.0}, ["x"], steps=4)["x/distance"]
    >>> [float(rising(step)) for step in (0, 2, 4, 9)]
    [0.0, 1.0, 2.0, 2.0]
    """
    warmed = dict(weights)
    for name in (f"{tap}/distance" for tap in taps) if steps else ():
        weight = warmed.get(name, 1.0)
        if weight != 0.0:
            warmed[name] = _ramp(weight, steps)
    return warmed


def _ramp(weight: Weight, steps: int) -> Weight:
    """Returns a schedule that rises linearly from 0 to ``weight``."""
    share = optax.linear_schedule(0.0, 1.0, steps)
    value = weight if callable(weight) else lambda step: weight
    return lambda step: share(step) * value(step)


def check_student_result(result: object) -> None:
    """Raises an error unless ``student_apply`` returned a pair of outputs and state.

    Args:
      result: what ``student_apply`` returned.

    Raises:
      ValueError: ``result`` is not a pair of a dict of outputs and a state.

    >>> check_student_result(({"logits": jnp.ones((2, 3))}, {}))
    """
    if not isinstance(result, tuple) or len(result) != 2:
        raise ValueError(
            f"student_apply: found {_kind(result)}, expected a pair (outputs, state): "
            "a dict of named arrays, and what is carried to the next step, {} for none"
        )
    check_outputs("student_apply", result[0])


def check_outputs(what: str, outputs: object) -> None:
    """Raises an error unless the outputs of a model are a dict.

    Args:
      what: name of the function that returned them, for the message.
      outputs: what that function returned.

    Raises:
      ValueError: ``outputs`` is not a dict.

    >>> check_outputs("teacher_apply", {"logits": jnp.ones((2, 3))})
    """
    if not isinstance(outputs, Mapping):
        raise ValueError(
            f"{what}: found outputs of {_kind(outputs)}, expected a dict of named "
            "arrays, such as {'features': x, 'logits': y}"
        )


def _kind(value: object) -> str:
    """Describes a value for an error message."""
    shape = getattr(value, "shape", None)
    return f"an array of shape {shape}" if shape is not None else type(value).__name__
