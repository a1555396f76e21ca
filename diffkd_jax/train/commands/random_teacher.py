"""Draws a teacher at random, with the statistics of training images in its norms."""

import functools
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...models.model import Model, split
from ..batches import training_batches
from ..cluster import sharding
from ..cluster.signals import ShouldStop, never, stop_if_requested
from ..run import Run
from ..teacher import draw_teacher, fold_teacher
from ..workdir.checkpoint import compute_checksum

# An average of 16 batches is as good as those of a training: a momentum of 0.9 averages
# over some 10. How much of the initial value is left is measured, see `remove_initial`.
PASSES = 16
ROUNDS = 10_000  # of which a momentum of 0.9999 would leave 1e-7 of the initial value
# Against it, the statistics of a batch are small, and rounding does not matter.
SHIFT = 2.0**20
TOLERANCE = 1e-4  # within which the share of the initial value is one number


def draw_random_teacher(run: Run, should_stop: ShouldStop = never) -> Model:
    """Returns a teacher with random parameters for a run, its batch norms folded.

    Its running statistics are those of the run's first training batches, over which the
    teacher is applied as in training. All of it depends only on the seed and the data.
    A teacher without running statistics has its initial values.

    Args:
      run: the run, its teacher not loaded.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The teacher with its variables. Its ``meta`` holds their ``checksum``.

    Raises:
      Stopped: a stop was requested.
    """
    assert run.teacher is not None  # for mypy
    drawn = draw_teacher(run.teacher, run.shapes.batch, run.config.seed)
    params, state = split(drawn.variables)
    if not any(map(_is_float, jax.tree.leaves(state))):
        return fold_teacher(drawn)
    prepare = run.pure_step.keywords["prepare"]
    keys = jax.random.split(jax.random.key(run.config.seed), PASSES)
    # An argument, since the compiler would treat constants as part of the program.
    params = jax.device_put(params)

    def apply(state: PyTree, inputs: Any) -> PyTree:
        params, batch, key = inputs
        batch = prepare(key, batch)
        return drawn.apply(params, state, batch, train=True, key=key)[1]

    with closing(training_batches(run, should_stop=should_stop)) as batches:
        state = average_statistics(
            apply,
            state,
            (
                (params, _whole_batch(run, batch), key)
                for batch, key in zip(batches, keys, strict=False)
            ),
            should_stop,
        )
    variables = {"params": params, **state}
    meta = {**drawn.meta, "checksum": compute_checksum(variables)}
    return fold_teacher(drawn._replace(variables=variables, meta=meta))


def _whole_batch(run: Run, batch: Any) -> Any:
    """Returns the batch of all processes, as NumPy arrays.

    One device computes the statistics, so that they are the same, to the last bit, for
    every number of devices.
    """
    parts = {name: value for name, value in batch.items() if name != "skipped"}
    return sharding.gather_arrays(sharding.put_batch(parts, run.devices.mesh))


def average_statistics(
    apply: Callable[[PyTree, Any], PyTree],
    state: PyTree,
    batches: Iterable[Any],
    should_stop: ShouldStop = never,
) -> PyTree:
    """Returns running statistics of batches, without their initial value.

    Args:
      apply: ``(state, batch) -> state`` of a network in training, whose parameters do
        not change.
      state: the initial state.
      batches: the batches, at least one.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The state to which many rounds over the batches would lead. Moving averages hold
      the average of the batches alone, whatever their momentum. Counts of batches are
      those of :data:`ROUNDS` rounds, since Equinox takes the share of the initial value
      out by such a count. Other arrays have the values after one round.

    Raises:
      Stopped: a stop was requested.

    >>> apply = lambda state, batch: {"mean": 0.99 * state["mean"] + 0.01 * batch}
    >>> state = average_statistics(apply, {"mean": np.float32(1)}, [4.0, 4.0])
    >>> round(float(state["mean"]), 3)
    4.0
    """
    fill = lambda value: jax.tree.map(
        lambda x: jnp.full_like(x, value) if _is_float(x) else x, state
    )
    first, states, number = jax.device_get(state), (state, fill(0.0), fill(SHIFT)), 0
    # The three applications have their forward pass in common, which is compiled once.
    step = jax.jit(lambda states, batch: tuple(apply(s, batch) for s in states))
    for batch in batches:
        stop_if_requested(should_stop)
        states = step(states, batch)
        number += 1
    value, *others = jax.device_get(states)
    value = jax.tree.map(functools.partial(_count_rounds, number), first, value)
    return jax.tree.map(remove_initial, value, *others)


def _count_rounds(number: int, first: Any, value: Any) -> Any:
    """Returns a count of batches after all rounds; any other array as it is."""
    if not jnp.issubdtype(value.dtype, jnp.integer) or not np.size(value):
        return value
    added = number * (ROUNDS - 1)
    is_count = np.all(np.int64(value) - np.int64(first) == number)
    fits = np.max(value) + added <= np.iinfo(value.dtype).max
    return (value + added).astype(value.dtype) if is_count and fits else value


def remove_initial(value: Any, from_zero: Any, from_shift: Any) -> Any:
    """Returns a moving average without the share of its initial value.

    Batches move an average from its initial value a to ``w a + (1 - w) s``, where s is
    the average of the batches, and w the same number for all elements. Averages that
    start at 0 and at :data:`SHIFT` give both.

    Args:
      value: the array after the batches.
      from_zero: the same, if it was 0 at the start.
      from_shift: the same, if it was :data:`SHIFT` at the start.

    Returns:
      s; or ``value``, if the array is no such average.

    >>> shifted = np.float32(0.75 * 2**20 + 1)
    >>> remove_initial(np.float32(1.75), np.float32(1.0), shifted)
    np.float32(4.0)
    """
    if not _is_float(value) or not np.size(value):
        return value
    shares = (np.float64(from_shift) - np.float64(from_zero)) / SHIFT
    share = np.mean(shares)
    # False for NaN too.
    is_average = np.all(np.abs(shares - share) <= TOLERANCE) and -TOLERANCE <= share < 1
    # One that forgets nothing in all batches has not seen them.
    if not is_average or share > 1 - TOLERANCE:
        return value
    return (from_zero / (1 - share)).astype(np.asarray(value).dtype)


def _is_float(x: Any) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))
