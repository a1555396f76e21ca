"""Makes the state that a run starts from, if its student starts from given weights."""

import dataclasses
import logging
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ..config import sections
from ..core.train_state import TrainState
from ..models.inputs import input_difference
from ..models.model import Model, split
from ..weights.checks import check_finite
from ..weights.initial import inherit, select_inherited, start_from
from ..weights.loading import load_into
from ..weights.paths import model_file
from ..weights.weights import open_weights, read_input
from .build import Run, student_variables
from .cluster import sharding

LOG = logging.getLogger(__name__)


def starting(
    options: sections.Student,
    run: Run,
    teacher: Callable[[], Model] | None,
    frozen: Sequence[str] = (),
) -> Callable[[TrainState], TrainState]:
    """Returns a function that puts the student's initial weights into a fresh state.

    Args:
      options: the section ``student`` of a config.
      run: the run.
      teacher: returns the teacher with the variables of its file; None without a
        teacher.
      frozen: patterns that name the parameters which are not trained.

    Returns:
      ``TrainState -> TrainState``. It reads the weights when it is called.

    Raises:
      ValueError: ``student.inherit`` names no parameters, or there is no teacher.
    """
    if options.inherit and teacher is None:
        raise ValueError(
            f"student.inherit: found {options.inherit} without a teacher, expected a "
            "method that has one, or ()"
        )
    if options.inherit and run.teacher is not None:
        # Refused now, before a teacher is trained.
        shapes = _shapes(run.student, run), _shapes(run.teacher, run)
        select_inherited(*shapes, options.inherit)
    if not (options.init or options.inherit):
        if frozen:
            LOG.warning(
                "optimizer.frozen: found %s without student.init or student.inherit: "
                "what is frozen stays at its random values",
                tuple(frozen),
            )
        return lambda state: state

    def initialise(state: TrainState) -> TrainState:
        variables = sharding.gathered(student_variables(state))
        if options.init:
            variables = _from_file(options, run.student, variables)
        if options.inherit and teacher is not None:
            variables = inherit(variables, teacher().variables, options.inherit)
        return _with_student(state, jax.device_put(variables, run.place(variables)))

    return initialise


def check_start(options: sections.Student, run: Run) -> None:
    """Checks whether the weights of ``student.init`` can be used; reads them.

    Args:
      options: the section ``student`` of a config.
      run: the run.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the weights cannot be read, do not fit or are not finite.
    """
    if options.init:
        _from_file(options, run.student, _shapes(run.student, run))


def _from_file(options: sections.Student, student: Model, variables: PyTree) -> PyTree:
    """Returns variables, or their shapes, with values from ``student.init`` put in."""
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


def _shapes(model: Model, run: Run) -> dict[str, PyTree]:
    """Returns the shapes of a model's variables."""
    batch = {"image": jax.ShapeDtypeStruct((1, *run.data.train_shape), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, batch)
    return {"params": params, **state}


def _with_student(state: TrainState, variables: PyTree) -> TrainState:
    """Returns a state whose student and moving average have the given variables."""
    params, carried = split(variables)
    average = {"params": params, "state": carried} if state.ema else {}
    return dataclasses.replace(
        state,
        params=state.params | {"student": params},
        model_state=state.model_state | {"student": carried},
        ema=jax.tree.map(jnp.copy, average),
    )
