"""The state that a run starts from, where its student starts from weights."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..config import sections
from ..core.step import TrainState
from ..models.inputs import input_difference
from ..models.model import Model, split
from ..weights.checks import check_finite
from ..weights.initial import inherit, load_into, select_inherited, start_from
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
) -> Callable:
    """``TrainState -> TrainState``: with the weights that a student starts from.

    Args:
      options: the section ``student`` of a config.
      run: from :func:`diffkd_jax.train.build.build`.
      teacher: gives the teacher, its variables as they are in its file; None for none.
      frozen: patterns of paths that do not train.

    Raises:
      ValueError: patterns that name nothing, or no teacher to inherit from.
    """
    if options.inherit and teacher is None:
        raise ValueError(
            f"student.inherit: found {options.inherit} without a teacher, expected a "
            "method that has one, or ()"
        )
    if options.inherit and run.teacher is not None:  # before one is trained
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

    def start(state):
        variables = sharding.gathered(student_variables(state))
        if options.init:
            variables = _from_file(options, run.student, variables)
        if options.inherit and teacher is not None:
            variables = inherit(variables, teacher().variables, options.inherit)
        return with_student(state, jax.device_put(variables, run.place(variables)))

    return start


def check_start(options: sections.Student, run: Run) -> None:
    """Reads the weights that a student starts from, to see whether they fit.

    Args:
      options: the section ``student`` of a config.
      run: from :func:`diffkd_jax.train.build.build`.

    Raises:
      FileNotFoundError: no such file.
      ValueError: weights that cannot be read, do not fit or are not finite.
    """
    if options.init:
        _from_file(options, run.student, _shapes(run.student, run))


def _from_file(options: sections.Student, student: Model, variables: Any) -> Any:
    """Returns variables, or their shapes, with those of ``student.init``."""
    weights = open_weights(model_file(options.init))
    file = weights.path
    if known := read_input(weights):  # training on may change it on purpose
        difference = input_difference(known, student.meta)
        if difference:
            LOG.warning("student.init: %s: %s", file, difference)
    found, spare = load_into(weights, student, options.init_into)
    check_finite(f"student.init: {file}", found)
    return start_from(
        variables,
        found,
        source=str(file),
        into=options.init_into,
        leave_out=options.init_leave_out,
        spare=spare,
    )


def _shapes(model: Model, run: Run) -> dict[str, Any]:
    """Of the variables of a model."""
    batch = {"image": jax.ShapeDtypeStruct((1, *run.data.train_shape), jnp.float32)}
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(model.init, key, batch)
    return {"params": params, **state}


def with_student(state: TrainState, variables: Any) -> TrainState:
    """A fresh state whose student, and its average, have these variables."""
    params, carried = split(variables)
    average = {"params": params, "state": carried} if state.ema else {}
    return dataclasses.replace(
        state,
        params=state.params | {"student": params},
        model_state=state.model_state | {"student": carried},
        ema=jax.tree.map(jnp.copy, average),
    )
