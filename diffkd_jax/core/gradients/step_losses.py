"""The weighted losses of a training step, as a function of the parameters."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, PyTree

from ..distill import Distillation
from ..losses import (
    Weight,
    check_outputs,
    check_student_result,
    merged,
    weigh,
    weighable,
)
from ..train_state import Outputs, TrainState

Scalar = Float[Array, ""]


class StepLosses(NamedTuple):
    """The losses of one step.

    Attributes:
      losses: unweighted losses by name.
      weighted: the same losses times their weights; those of weight 1 are the same
        arrays.
      task: names of the losses of the task.
      model_state: what student and distiller carry to the next step.
      info: what the blocks report, by tap.
    """

    losses: dict[str, Scalar]
    weighted: dict[str, Scalar]
    task: tuple[str, ...]
    model_state: dict[str, PyTree]
    info: dict[str, dict[str, PyTree]]


def bind_losses(
    state: TrainState,
    teacher: PyTree,
    batch: PyTree,
    *,
    student_apply: Callable[..., tuple[Outputs, PyTree]],
    teacher_apply: Callable[..., Outputs],
    distillation: Distillation,
    task_loss: Callable[..., Mapping[str, Scalar]],
    weights: Mapping[str, Weight],
    prepare: Callable[[Array, PyTree], PyTree] | None,
    distill: bool,
) -> Callable[[dict[str, PyTree]], StepLosses]:
    """Returns ``params -> StepLosses`` for the next step of a state.

    It prepares the batch and applies the teacher. All randomness is a function of
    ``state.seed`` and ``state.step``. The arguments are those of
    :func:`diffkd_jax.core.step.diffkd_step`.

    Args:
      state: the state before the step. Its parameters are not read.
      teacher: frozen variables of the teacher.
      batch: any pytree.
      student_apply: ``(params, model_state, batch, key) -> (outputs, model_state)``.
      teacher_apply: ``(teacher, batch) -> outputs``.
      distillation: the losses of the taps.
      task_loss: ``(outputs, batch) -> {name: scalar}``.
      weights: factor of each loss.
      prepare: ``(key, batch) -> batch``, or None.
      distill: if false, there are only the losses of the task.

    Raises:
      ValueError: a function does not return what it should.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    key_student, key_distill = jax.random.split(key)
    if prepare is not None:
        # It has its own key, so that the other draws do not depend on ``prepare``.
        batch = prepare(jax.random.fold_in(key, 2), batch)
        if batch is None:
            raise ValueError("prepare: found NoneType, expected the batch")
    if distill:
        teacher_out = jax.lax.stop_gradient(teacher_apply(teacher, batch))
        check_outputs("teacher_apply", teacher_out)
    target = batch.get("target") if isinstance(batch, Mapping) else None

    def losses_of(params: dict[str, PyTree]) -> StepLosses:
        result = student_apply(
            params["student"], state.model_state["student"], batch, key_student
        )
        check_student_result(result)
        student_out, student_state = result
        distiller_state = state.model_state["distiller"]
        losses = merged(task_loss(student_out, batch), {})
        task = tuple(losses)
        info: dict[str, dict[str, PyTree]] = {}
        if distill:
            terms, distiller_state, info = distillation.loss(
                params["distiller"],
                distiller_state,
                key_distill,
                student_out,
                teacher_out,
                target,
            )
            losses, used_weights = merged(losses, terms), weights
        else:
            names = weighable(losses)
            used_weights = {n: w for n, w in weights.items() if n in names}
        weighted = weigh(losses, used_weights, state.step)
        new_state = {"student": student_state, "distiller": distiller_state}
        return StepLosses(losses, weighted, task, new_state, info)

    return losses_of
