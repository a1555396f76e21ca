"""Puts weights from a file or from the teacher into a run's initial state."""

import dataclasses
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..core.train_state import TrainState
from ..models.inputs import input_difference
from ..models.model import Model, split
from ..weights.checks import check_finite
from ..weights.initial import inherit, start_from
from ..weights.loading import load_into
from ..weights.paths import model_file
from ..weights.weights import open_weights, read_input
from .cluster import sharding
from .components import variable_shapes
from .run import Run, student_variables

LOG = logging.getLogger(__name__)


def with_initial_weights(
    run: Run, state: TrainState, get_teacher: Callable[[], Model] | None = None
) -> TrainState:
    """Puts the weights of ``student.init`` and ``student.inherit`` into a state.

    Args:
      run: the run.
      state: a fresh state.
      get_teacher: returns the teacher with the variables of its file, batch norms not
        folded. It is called if the student inherits parameters.

    Returns:
      The state, with the student's weights replaced, also in its moving average. The
      same state if both fields are empty.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the weights cannot be read, do not fit or are not finite, or the
        student inherits parameters and there is no ``get_teacher``.
    """
    options = run.config.student
    if not (options.init or options.inherit):
        return state
    variables = sharding.gather_arrays(student_variables(state))
    if options.init:
        variables = _read_into(run, variables)
    if options.inherit:
        if get_teacher is None:
            raise ValueError(
                f"student.inherit: found {options.inherit} and no get_teacher, "
                "expected a function that returns the teacher"
            )
        variables = inherit(variables, get_teacher().variables, options.inherit)
    variables = jax.device_put(variables, run.devices.choose_shardings(variables))
    params, carried = split(variables)
    average = {"params": params, "state": carried} if state.ema else {}
    return dataclasses.replace(
        state,
        params=state.params | {"student": params},
        model_state=state.model_state | {"student": carried},
        ema=jax.tree.map(jnp.copy, average),
    )


def check_initial_weights(run: Run) -> None:
    """Reads the weights of ``student.init`` and checks whether they can be used.

    Args:
      run: the run.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the weights cannot be read, do not fit or are not finite.
    """
    if run.config.student.init:
        _read_into(run, variable_shapes(run.student, run.shapes.batch))


def _read_into(run: Run, variables: PyTree) -> PyTree:
    """Returns variables, or their shapes, with values of the file ``student.init``."""
    options, student = run.config.student, run.student
    weights = open_weights(model_file(options.init))
    file = weights.path
    # Other input is a warning only: the user may change it on purpose.
    if stored_input := read_input(weights):
        difference = input_difference(stored_input, student.meta)
        if difference:
            LOG.warning("student.init: %s: %s", file, difference)
    loaded, spare = load_into(weights, student, options.init_into)
    check_finite(f"student.init: {file}", loaded)
    return start_from(
        variables,
        loaded,
        source=str(file),
        into=options.init_into,
        leave_out=options.init_leave_out,
        spare=spare,
    )
