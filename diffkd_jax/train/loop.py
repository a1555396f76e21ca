"""The parts of the training loop: advance, log, evaluate, save, stop.

:func:`diffkd_jax.train.fit.fit` makes the :class:`Loop` and calls them in this order.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ..core.train_state import TrainState
from ..data.pipeline.unreadable import note_skipped
from ..tasks import Evidence
from .cluster import processes, sharding
from .cluster.signals import ShouldStop, Stalled, Stopped, never
from .finite import FiniteCheck, log_first_step
from .outputs.metrics import Progress, Writer, print_values
from .run import Run, ema_variables, student_variables
from .stalling import Stalling
from .workdir import checkpoint

LOOK_EVERY = 100  # the clock is read at least once in so many steps


@dataclasses.dataclass
class Loop:
    """The variables of a training loop, which the functions of this module change.

    Attributes:
      run: the run, its teacher loaded.
      workdir: directory of the run.
      events: called with an event and the step before it happens, see
        :func:`diffkd_jax.train.fit.fit`.
      should_stop: returns the number of the signal to stop for, or 0.
      teacher_variables: variables of the teacher, on the devices.
      checkpoints: Orbax's checkpoint manager.
      batches: generator of this process's batches.
      writer: writes rows of the log.
      finite: checks the metrics.
      stalling: warns about scores at chance level and about losses that dominate.
      progress: the progress line, which measures the speed.
      learning_rate: ``step -> learning rate``, compiled.
      diagnose: compares the gradients of the losses before a step, if it is due, see
        :func:`diffkd_jax.train.outputs.diagnosis.make_diagnosis`.
      state: the state after ``step`` updates.
      step: number of updates.
      saved_step: step of the last checkpoint.
      saved_at: time of the last checkpoint on the monotonic clock, in seconds.
      history: scores of the student by step.
      pending: steps with their metrics that are not in the log yet.
      evidence: evidence of the student's last evaluation; None before the first.
      compiled: values of ``distill`` for which the step has run in this process.
      unreadable: reasons why images could not be read, by index of the image.
    """

    run: Run
    workdir: pathlib.Path
    events: Callable[[str, int], None]
    should_stop: ShouldStop
    teacher_variables: PyTree
    checkpoints: ocp.CheckpointManager
    batches: Any
    writer: Writer
    finite: FiniteCheck
    stalling: Stalling
    progress: Progress
    learning_rate: Callable[..., Any]
    diagnose: Callable[..., float]
    state: TrainState
    step: int
    saved_step: int
    saved_at: float
    history: dict[int, dict[str, float]]
    pending: list[Any]
    evidence: Evidence | None = None
    compiled: set[bool] = dataclasses.field(default_factory=set)
    unreadable: dict[int, str] = dataclasses.field(default_factory=dict)


def advance(loop: Loop) -> None:
    """Takes the next batch and makes one step.

    Args:
      loop: the variables of the loop.

    Raises:
      Stopped: a stop was requested while no batch came.
      Stalled: no batch came in time.
      ValueError: more images than ``plan.max_unreadable`` could not be read, or there
        is no further batch.
    """
    run, plan = loop.run, loop.run.plan
    batch = dict(next(loop.batches, {}))
    if not batch:
        raise ValueError(
            f"batches: found the end after step {loop.step}, expected batches up to "
            f"step {plan.total_steps}"
        )
    skipped = batch.pop("skipped", None)
    if skipped is not None:
        note_skipped(skipped, loop.unreadable, run.data.train, plan.max_unreadable)
    distill = not (run.method.taps and loop.step % plan.distill_every)
    batch = sharding.put_batch(batch, run.devices.mesh)
    seconds = loop.diagnose(
        loop.writer, loop.step, loop.state, loop.teacher_variables, batch
    )
    if loop.compiled:
        loop.progress.leave_out(seconds, steps=0)
    called_at = time.monotonic()
    loop.state, metrics = run.step(loop.state, loop.teacher_variables, batch, distill)
    loop.step += 1
    if distill not in loop.compiled:
        # The rate of images does not count compilation.
        jax.block_until_ready(metrics)
        if loop.step == 1 and processes.is_primary():
            log_first_step(_numbers(metrics), run.method.taps)
        if loop.compiled:
            loop.progress.leave_out(time.monotonic() - called_at)
        else:
            loop.progress = Progress(
                run.title, loop.step, plan.total_steps, plan.batch_size
            )
        loop.compiled.add(distill)
    loop.pending.append((loop.step, metrics))
    # Dispatch is one step ahead of the device: the batch of the next step is copied
    # while this one computes. Without a bound, batches would pile up. Fetching the
    # metrics of the previous step sets the bound.
    loop.pending[-2:-1] = jax.device_get(loop.pending[-2:-1])


def log_if_due(loop: Loop) -> None:
    """Logs the steps since the last log, every ``plan.log_every`` steps.

    It also logs before each evaluation. Logging checks the steps, so the state that is
    saved after an evaluation is finite.

    Args:
      loop: the variables of the loop.

    Raises:
      NotFinite: a step is not finite and its update was not skipped.
    """
    step, plan, finite = loop.step, loop.run.plan, loop.finite
    if not plan.is_due(step, plan.eval_every) and step % plan.log_every:
        return
    loop.events("log", step)
    values = finite.average(loop.pending)
    # The optimizer does not count skipped updates.
    values["learning_rate"] = loop.learning_rate(step - 1 - finite.skipped)
    values["unreadable"] = len(loop.unreadable)
    values["images_per_second"] = loop.progress.images_per_second(step)
    loop.writer.write(step, values)
    loop.progress.show(step, values)
    loop.stalling.look_at_losses(values)
    loop.pending = []


def evaluate_if_due(loop: Loop) -> None:
    """Runs the evaluations that are due, except those that are in the log already.

    They are in the log if an earlier call stopped after it had made them.

    Args:
      loop: the variables of the loop.

    Raises:
      Stopped: a stop was requested.
    """
    run, plan, step, state = loop.run, loop.run.plan, loop.step, loop.state
    # The first process decides, because the others may see a file later.
    is_missing = lambda is_logged: processes.broadcast_first(not is_logged)
    for name, evaluation in run.evaluations.items():
        if plan.is_due(step, evaluation.every) and is_missing(
            loop.writer.has_row(step, f"eval/{name}/")
        ):
            scores = evaluation.evaluate(
                student_variables(state),
                loop.teacher_variables,
                should_stop=loop.should_stop,
            )
            loop.writer.write(step, {f"eval/{name}/{k}": v for k, v in scores.items()})
            print_values(f"{run.title}  {name}", scores)
    if plan.is_due(step, plan.eval_every) and is_missing(step in loop.history):
        loop.events("evaluate", step)
        loop.history[step], loop.evidence = evaluate_student(
            run, state, step, loop.writer, loop.should_stop
        )
        loop.stalling.look_at_scores(loop.history, loop.evidence)


def save_if_due(loop: Loop) -> None:
    """Saves a checkpoint after each evaluation, and if the last one is too old.

    Args:
      loop: the variables of the loop.

    Raises:
      NotFinite: a step is not finite and its update was not skipped.
    """
    step, plan = loop.step, loop.run.plan
    is_due = plan.is_due(step, plan.eval_every)
    if not is_due and plan.save_every and not step % min(plan.log_every, LOOK_EVERY):
        # All processes go by the clock of the first one.
        age = time.monotonic() - loop.saved_at
        is_due = bool(processes.broadcast_first(age >= plan.save_every))
    if is_due:
        loop.events("save", step)
        _save(loop)


def _save(loop: Loop) -> None:
    """Starts to save the state, its scores and metrics that are not in the log yet."""
    rows, step = loop.finite.fetch(loop.pending), loop.step
    scores = loop.history.get(step, {})
    checkpoint.save_checkpoint(loop.checkpoints, step, loop.state, scores, rows)
    loop.saved_step, loop.saved_at = step, time.monotonic()


def save_and_stop(loop: Loop, end: Stopped | Stalled) -> NoReturn:
    """Saves the state if it is not saved yet, then raises the reason for the stop.

    A process that stalls beside others saves nothing, because a save needs all of them.

    Args:
      loop: the variables of the loop.
      end: the reason.

    Raises:
      Stopped: a stop was requested; the message says where the state is.
      Stalled: no batch came in time.
    """
    # Only this process has stalled; the others may not reach the save.
    if isinstance(end, Stalled) and jax.process_count() > 1:
        raise end
    if loop.step > loop.saved_step:
        _save(loop)
    loop.checkpoints.wait_until_finished()
    if isinstance(end, Stalled):
        raise end
    saving = f"saved in {loop.workdir}" if loop.step else "nothing to save"
    raise Stopped(
        f"{loop.run.title}: stopped at step {loop.step} of "
        f"{loop.run.plan.total_steps}, {saving}; the same command goes on",
        end.number,
    ) from None


def evaluate_student(
    run: Run,
    state: TrainState,
    step: int,
    writer: Writer | None,
    should_stop: ShouldStop = never,
) -> tuple[dict[str, float], Evidence]:
    """Evaluates the student and, if the state has one, its moving average.

    Args:
      run: the run.
      state: the state after ``step`` updates.
      step: number of updates.
      writer: writes and prints the scores; None to do neither.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The scores, those of the moving average with the prefix ``ema_``; and the evidence
      of the student.
    """
    values, evidence = run.evaluate(
        run.student, student_variables(state), should_stop=should_stop
    )
    if state.ema:
        average, _ = run.evaluate(
            run.student, ema_variables(state), should_stop=should_stop
        )
        values |= {f"ema_{name}": value for name, value in average.items()}
    if writer is not None:
        writer.write(step, {f"eval/{k}": v for k, v in values.items()})
        print_values(f"{run.title}  epoch {step / run.plan.steps_per_epoch:g}", values)
    return values, evidence


def _numbers(metrics: Any) -> dict[str, float]:
    """Returns the scalars among metrics as numbers."""
    return {k: float(v) for k, v in jax.device_get(metrics).items() if v.ndim == 0}
