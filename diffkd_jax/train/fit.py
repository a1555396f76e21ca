"""Runs the training loop: restore, step, log, evaluate, save, stop."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ..core.train_state import TrainState
from ..data.pipeline.unreadable import note_skipped
from ..tasks import Evidence
from .build import Run, student_variables
from .cluster import processes, sharding
from .cluster.signals import Asked, Stalled, Stopped, never, stop_here
from .finite import Finite, log_first_step
from .outputs import report
from .outputs.metrics import Progress, Writer, print_line, print_values
from .plan import Plan
from .stalling import Stalling
from .workdir import checkpoint

LOOK_EVERY = 100  # the clock is read at least once in so many steps


class Fitted(NamedTuple):
    """The result of a training.

    Attributes:
      state: the state after the last step.
      history: scores of each evaluation, in order.
      evidence: evidence of the student's last evaluation.
      images_per_second: training speed, without compilation.
    """

    state: TrainState
    history: list[dict[str, float]]
    evidence: Evidence
    images_per_second: float


def ema_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the variables of the student's moving average.

    Args:
      state: a state that has one, so ``state.ema`` is not empty.

    Returns:
      ``params`` and the collections that the student carries.
    """
    return {"params": state.ema["params"], **state.ema["state"]}


class _Log(NamedTuple):
    """The destinations of scores: the workdir, scores by step, the caller's events."""

    writer: Writer
    history: dict[int, dict[str, float]]
    events: Callable[[str, int], None]


def nothing(event: str, step: int) -> None:
    """Leaves an event of the loop without effect.

    Args:
      event: ``"log"``, ``"evaluate"`` or ``"save"``.
      step: number of updates.

    >>> nothing("log", 1)
    """


def fit(
    run: Run,
    workdir: pathlib.Path,
    *,
    start: Callable[[TrainState], TrainState] = lambda state: state,
    events: Callable[[str, int], None] = nothing,
    asked: Asked = never,
) -> Fitted:
    """Trains a run to its last step, from its last checkpoint if it has one.

    Args:
      run: a run, its teacher loaded.
      workdir: directory of the run, which no other run uses.
      start: ``fresh state -> initial state``. It is not called if a checkpoint is
        restored.
      events: called with ``"log"``, ``"evaluate"`` or ``"save"`` and the step,
        before it happens.
      asked: whether to stop, see :mod:`diffkd_jax.train.cluster.signals`. It is called
        after each step and between the batches of an evaluation.

    Returns:
      The last state, the scores and the speed.

    Raises:
      Stopped: a stop was requested, and the state is saved.
      ValueError: a number is not finite, a checkpoint does not fit, or the teacher has
        no variables.
    """
    plan, teacher_variables = run.plan, run.teacher_variables
    state, history, unreadable = (
        run.init(),
        dict[int, dict[str, float]](),
        dict[int, str](),
    )
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.manager(workdir, run.task, history)
        )
        restored = checkpoint.restore(checkpoints, state)
        state = start(state) if restored is None else restored
        first = step = saved = int(state.step)
        if first:
            print_line(f"{run.title.split()[0]}: resuming at step {first}")
        pending: list[Any] = checkpoint.pending(checkpoints, first) if first else []
        batches = stack.enter_context(closing(run.batches(first, asked)))
        writer = stack.enter_context(closing(Writer(workdir, first)))
        # The first process may not have cut off later rows yet.
        logged = report.evaluations(workdir, run.task.headline)
        history |= {
            logged_at: scores
            for logged_at, scores in logged.items()
            if logged_at <= first
        }
        log = _Log(writer, history, events)
        stalling = Stalling(run.task, plan.chance_evaluations)
        finite = Finite(checkpoints, workdir, plan.max_skipped, first)
        progress = Progress(run.title, first, plan.total_steps, plan.batch_size)
        evidence, saved_at, compiled = None, time.monotonic(), list[Callable]()
        try:
            stop_here(asked)
            if first:  # an earlier call may have stopped before this evaluation
                evidence = _evaluate_due(
                    run, state, first, teacher_variables, log, asked
                )
            for step in range(first + 1, plan.total_steps + 1):
                batch = _next(run, batches, unreadable)
                is_undistilled = run.method.taps and (step - 1) % plan.distill_every
                update = run.task_step if is_undistilled else run.step
                called_at = time.monotonic()
                state, metrics = update(
                    state, teacher_variables, sharding.put_batch(batch, run.mesh)
                )
                if update not in compiled:
                    # The rate of images does not count compilation.
                    jax.block_until_ready(metrics)
                    if step == 1 and processes.is_primary():
                        log_first_step(_numbers(metrics), run.method.taps)
                    if compiled:
                        progress.leave_out(time.monotonic() - called_at)
                    else:
                        progress = Progress(
                            run.title, step, plan.total_steps, plan.batch_size
                        )
                    compiled.append(update)
                pending.append((step, metrics))
                # Dispatch is one step ahead of the device: the batch of the next step
                # is copied while this one computes. Without a bound, batches would
                # pile up. Fetching the metrics of the previous step sets the bound.
                pending[-2:-1] = jax.device_get(pending[-2:-1])
                due = plan.is_due(step, plan.eval_every)
                # Checked before a checkpoint too: a broken step is never saved.
                if due or step % plan.log_every == 0:
                    events("log", step)
                    values = finite.logged(pending)
                    # The optimizer does not count skipped updates.
                    values["learning_rate"] = run.schedule(step - 1 - finite.skipped)
                    values["unreadable"] = len(unreadable)
                    values["images_per_second"] = progress.images_per_second(step)
                    writer.write(step, values)
                    progress.show(step, values)
                    stalling.look_at_losses(values)
                    pending = []
                stop_here(asked)
                new_evidence = _evaluate_due(
                    run, state, step, teacher_variables, log, asked
                )
                if new_evidence is not None:
                    evidence = new_evidence
                    stalling.look_at_scores(history, evidence)
                if due or _is_late(plan, step, saved_at):
                    events("save", step)
                    rows = finite.rows(pending)
                    checkpoint.save_checkpoint(
                        checkpoints, step, state, history.get(step, {}), rows
                    )
                    saved, saved_at = step, time.monotonic()
            if evidence is None:  # resumed after the last evaluation
                _, evidence = evaluate_student(
                    run, state, plan.total_steps, None, asked
                )
        except (Stopped, Stalled) as end:
            stalled, step = isinstance(end, Stalled), int(state.step)
            # A save needs all processes, and only this one has stalled.
            if stalled and jax.process_count() > 1:
                raise
            if step > saved:
                rows = finite.rows(pending)
                checkpoint.save_checkpoint(checkpoints, step, state, {}, rows)
            checkpoints.wait_until_finished()
            if isinstance(end, Stalled):
                raise
            saving = f"saved in {workdir}" if step else "nothing to save"
            raise Stopped(
                f"{run.title}: stopped at step {step} of {plan.total_steps}, {saving}; "
                "the same command goes on",
                end.number,
            ) from None
        checkpoints.wait_until_finished()
        rate = progress.images_per_second(plan.total_steps)
    return Fitted(state, [history[k] for k in sorted(history)], evidence, rate)


def _evaluate_due(
    run: Run,
    state: TrainState,
    step: int,
    teacher_variables: PyTree,
    log: _Log,
    asked: Asked,
) -> Evidence | None:
    """Runs the evaluations that are due and not logged; returns the evidence."""
    plan, (writer, history, events) = run.plan, log
    # The first process decides, because the others may see a file later.
    is_missing = lambda is_logged: processes.as_first(not is_logged)
    for name, other in run.others.items():
        if plan.is_due(step, other.every) and is_missing(
            writer.holds(step, f"eval/{name}/")
        ):
            scores = other.evaluate(
                student_variables(state), teacher_variables, asked=asked
            )
            writer.write(step, {f"eval/{name}/{k}": v for k, v in scores.items()})
            print_values(f"{run.title}  {name}", scores)
    if not (plan.is_due(step, plan.eval_every) and is_missing(step in history)):
        return None
    events("evaluate", step)
    history[step], evidence = evaluate_student(run, state, step, writer, asked)
    return evidence


def evaluate_student(
    run: Run,
    state: TrainState,
    step: int,
    writer: Writer | None,
    asked: Asked = never,
) -> tuple[dict[str, float], Evidence]:
    """Evaluates the student and, if the state has one, its moving average.

    Args:
      run: the run.
      state: the state after ``step`` updates.
      step: number of updates.
      writer: writes and prints the scores; None to do neither.
      asked: whether to stop.

    Returns:
      The scores, those of the moving average with the prefix ``ema_``; and the evidence
      of the student.
    """
    values, evidence = run.evaluate(run.student, student_variables(state), asked=asked)
    if state.ema:
        average, _ = run.evaluate(run.student, ema_variables(state), asked=asked)
        values |= {f"ema_{name}": value for name, value in average.items()}
    if writer is not None:
        writer.write(step, {f"eval/{k}": v for k, v in values.items()})
        print_values(f"{run.title}  epoch {step / run.plan.steps_per_epoch:g}", values)
    return values, evidence


def _numbers(metrics: Any) -> dict[str, float]:
    """Returns the scalars among metrics as numbers."""
    return {k: float(v) for k, v in jax.device_get(metrics).items() if v.ndim == 0}


def _next(run: Run, batches: Any, unreadable: dict[int, str]) -> dict[str, Any]:
    """Returns the next batch, after noting which of its images could not be read."""
    batch = next(batches)
    skipped, split = batch.pop("skipped"), run.data.train
    note_skipped(skipped, unreadable, split, run.plan.max_unreadable)
    return batch


def _is_late(plan: Plan, step: int, saved_at: float) -> bool:
    """Returns whether the last checkpoint is too old, by the first process's clock."""
    if not plan.save_every or step % min(plan.log_every, LOOK_EVERY):
        return False
    return bool(processes.as_first(time.monotonic() - saved_at >= plan.save_every))
