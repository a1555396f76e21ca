"""Refuses runs whose parts do not fit each other, before anything is trained.

:func:`diffkd_jax.train.build.build` calls :func:`check` at the end, and the other
checks before, while it makes the parts. :func:`check_teacher` is called again for the
loaded teacher.
"""

import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..config.sections import Config
from ..core.distances import reads_target
from ..core.losses import merged, weigh
from ..data import Data
from ..models.model import Model, by_path
from ..tasks import Evidence, Task
from ..weights.initial import frozen_mask, select_inherited
from .components import report_missing_output, variable_shapes
from .run import Run

LOG = logging.getLogger(__name__)


def check(run: Run) -> None:
    """Checks whether the parts of a run fit each other; the last step of building it.

    Each part has been checked by itself: fields by the config, options by the functions
    that take them, taps by the distillation. The kind of target, the further
    evaluations and the student's outputs have been checked too, because the run could
    not be put together otherwise.

    Args:
      run: the run.

    Raises:
      ValueError: the task cannot use the teacher, a weight belongs to no loss, all
        losses of the taps have weight 0, a pattern of ``optimizer.frozen`` or
        ``student.inherit`` names nothing, or nothing is left to train.
    """
    _check_weights(run)
    if run.teacher is not None:
        check_teacher(run, run.teacher)
    _check_frozen(run)
    _check_inherited(run)


def check_target(
    config: Config,
    task_ranks: Mapping[str, int] | None,
    data_ranks: Mapping[str, int] | None,
) -> None:
    """Checks whether the data have the kind of target that the task needs.

    Args:
      config: a resolved config, for the names in the message.
      task_ranks: rank of each array that the task needs in one example's target; None
        if it accepts any target.
      data_ranks: rank of each array in the target of the data; None if not known.

    Raises:
      ValueError: the data have another kind of target.

    >>> check_target(Config(), {"depth": 2}, {"depth": 2})
    """
    if not task_ranks or data_ranks is None:
        return
    if any(data_ranks.get(name) != rank for name, rank in task_ranks.items()):
        ending = lambda rank: "is" if rank == 1 else "es"
        axes = lambda ranks: ", ".join(
            f"{name} of {rank} ax{ending(rank)}" for name, rank in ranks.items()
        )
        raise ValueError(
            f"data.name: found {config.data.name!r}, whose targets are "
            f"{axes(data_ranks)}; expected {axes(task_ranks)} for task.name "
            f"{config.task.name!r}"
        )


def check_evaluations(config: Config, data: Data, teacher: Model | None) -> None:
    """Checks whether the further evaluations have a teacher and a split.

    Args:
      config: a resolved config.
      data: the data.
      teacher: the teacher, which all of these evaluations need, or None.

    Raises:
      ValueError: there are evaluations without a teacher, or there is no such split.
    """
    for name, options in config.evaluations.items():
        if teacher is None:
            raise ValueError(
                f"evaluations.{name}: found a method without a teacher, expected one "
                "with taps"
            )
        if options.split not in ("", *data.splits):
            raise ValueError(
                f"evaluations.{name}.split: found {options.split!r}, expected one of "
                f"{list(data.splits)}"
            )


def check_student(
    task: Task, student: Model, outputs: Mapping[str, Any], batch: Mapping[str, Any]
) -> dict[str, Any]:
    """Checks whether the task can use a student's outputs; traces loss and evidence.

    Args:
      task: the task.
      student: the untrained student, for the name in the message.
      outputs: shapes of the student's outputs.
      batch: shapes of a normalised batch.

    Returns:
      Shapes of the task's losses.

    Raises:
      ValueError: an output that the task reads is missing, or the task does not return
        losses and evidence.
    """
    name, losses = student.meta.get("model", ""), {}
    for function in (task.loss, task.evidence):
        try:
            with report_missing_output(outputs):
                result = jax.eval_shape(function, outputs, dict(batch))
            if function is task.loss:
                losses = merged(result, {})
        except ValueError as error:
            raise ValueError(f"student.model: {name!r}: {error}") from error
    evidence = Evidence(*result) if isinstance(result, tuple) else None
    if evidence is None or not isinstance(evidence.sums, Mapping):
        raise ValueError(
            f"task.name: found evidence of {type(result).__name__}, expected "
            "diffkd_jax.tasks.Evidence"
        )
    return losses


def _check_weights(run: Run) -> None:
    """Raises ValueError if a weight has no loss, or if all taps' losses weigh 0."""
    weights, taps, losses = run.method.weights, run.method.taps, run.shapes.losses
    tap_losses = [name for name in losses if name.partition("/")[0] in taps]
    factor = lambda name: (weights.get(name, 1.0), weights.get(name.split("/")[0], 1.0))
    if tap_losses and all(0.0 in factor(name) for name in tap_losses):
        raise ValueError(
            f"weights: found 0 for all of {tap_losses}, expected one above 0, or the "
            "method 'none'"
        )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    jax.eval_shape(lambda losses, step: weigh(losses, weights, step), losses, step)


def check_teacher(run: Run, teacher: Model) -> None:
    """Checks whether the task can use a teacher, if the task has such a check.

    Args:
      run: the run.
      teacher: the untrained teacher, or the loaded one: its ``meta`` also holds what
        its file says, such as the names of its classes.

    Raises:
      ValueError: the task cannot use this teacher.
    """
    if run.task.check is None:
        return
    taps = {}
    for name, tap in run.method.taps.items():
        pair = run.shapes.features[name]
        reads = reads_target(tap.distance, pair.student, pair.teacher)
        taps[name] = (tap.student, tap.teacher, reads)
    run.task.check("teacher.init", teacher.meta, run.data.meta, taps)


def _check_frozen(run: Run) -> None:
    """Raises ValueError if ``optimizer.frozen`` matches no parameter, or all."""
    config, patterns = run.config, run.config.optimizer.frozen
    if not patterns:
        return
    params = variable_shapes(run.student, run.shapes.batch)["params"]
    for pattern in patterns:
        if not any(jax.tree.leaves(frozen_mask(params, [pattern], ""))):
            raise ValueError(
                f"optimizer.frozen: found {pattern!r}, expected paths of the student "
                f"such as {sorted(by_path(params))[:3]}"
            )
    if all(jax.tree.leaves(frozen_mask(params, patterns, ""))):
        raise ValueError(
            f"optimizer.frozen: found {tuple(patterns)!r}, which leaves nothing of the "
            "student to train"
        )
    if not (config.student.init or config.student.inherit):
        LOG.warning(
            "optimizer.frozen: found %s without student.init or student.inherit: what "
            "is frozen stays at its random values",
            tuple(patterns),
        )


def _check_inherited(run: Run) -> None:
    """Raises ValueError if the student cannot inherit parameters of the teacher."""
    patterns = run.config.student.inherit
    if not patterns:
        return
    if run.teacher is None:
        raise ValueError(
            f"student.inherit: found {patterns} without a teacher, expected a method "
            "that has one, or ()"
        )
    if (source := run.method.teacher) != "config":
        raise ValueError(
            f"student.inherit: found {patterns} for a teacher of the source "
            f"{source!r}, expected (), because the student would start with the "
            "values of a control"
        )
    student, teacher = (
        variable_shapes(m, run.shapes.batch) for m in (run.student, run.teacher)
    )
    select_inherited(student, teacher, patterns)
