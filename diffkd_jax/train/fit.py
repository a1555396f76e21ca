"""Runs the training loop: restore, then step, log, evaluate and save until it stops."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ..core.step import TrainState
from ..data.pipeline.unreadable import note_skipped
from ..tasks import Evidence
from .batches import training_batches
from .cluster import processes, sharding
from .cluster.signals import Asked, Stalled, Stopped, never, stop_here
from .finite import Finite, log_first_step
from .outputs import report
from .outputs.metrics import Progress, Writer, print_line, print_values
from .run import Run, ema_variables, student_variables
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


@dataclasses.dataclass
class _Loop:
    """The variables of a training loop, which its functions read and replace."""

    run: Run
    workdir: pathlib.Path
    events: Callable[[str, int], None]
    asked: Asked
    teacher_variables: PyTree
    checkpoints: ocp.CheckpointManager
    batches: Any
    writer: Writer
    finite: Finite
    stalling: Stalling
    progress: Progress
    learning_rate: Callable
    state: TrainState
    step: int  # number of updates
    saved_step: int  # that of the last checkpoint
    saved_at: float  # its time on the monotonic clock, in seconds
    history: dict[int, dict[str, float]]  # scores by step
    pending: list[Any]  # steps with their metrics that are not in the log yet
    evidence: Evidence | None = None  # of the student's last evaluation
    compiled: set[bool] = dataclasses.field(default_factory=set)  # see `_update`
    unreadable: dict[int, str] = dataclasses.field(default_factory=dict)


def ignore_event(event: str, step: int) -> None:
    """Takes no notice of an event of the loop.

    Args:
      event: ``"log"``, ``"evaluate"`` or ``"save"``.
      step: number of updates.

    >>> ignore_event("log", 1)
    """


def fit(
    run: Run,
    workdir: pathlib.Path,
    *,
    start: Callable[[TrainState], TrainState] = lambda state: state,
    batches: Callable[[Run, int, Asked], Generator] = training_batches,
    events: Callable[[str, int], None] = ignore_event,
    asked: Asked = never,
) -> Fitted:
    """Trains a run to its last step, from its last checkpoint if it has one.

    Args:
      run: a run, its teacher loaded.
      workdir: directory of the run, which no other run uses.
      start: ``fresh state -> initial state``. It is not called if a checkpoint is
        restored.
      batches: ``(run, number of steps done, asked) -> generator`` of this process's
        batches.
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
    total_steps = run.plan.total_steps
    with _restored(run, workdir, start, batches, events, asked) as loop:
        try:
            stop_here(asked)
            if loop.step:  # an earlier call may have stopped before this evaluation
                _evaluate_if_due(loop)
            while loop.step < total_steps:
                _advance(loop)
                _log_if_due(loop)
                stop_here(asked)
                _evaluate_if_due(loop)
                _save_if_due(loop)
            if loop.evidence is None:  # resumed after the last evaluation
                _, loop.evidence = evaluate_student(
                    run, loop.state, total_steps, None, asked
                )
        except (Stopped, Stalled) as end:
            _stop(loop, end)
        loop.checkpoints.wait_until_finished()
        rate = loop.progress.images_per_second(total_steps)
    assert loop.evidence is not None  # for mypy
    history = [loop.history[step] for step in sorted(loop.history)]
    return Fitted(loop.state, history, loop.evidence, rate)


@contextlib.contextmanager
def _restored(
    run: Run,
    workdir: pathlib.Path,
    start: Callable[[TrainState], TrainState],
    batches: Callable[[Run, int, Asked], Generator],
    events: Callable[[str, int], None],
    asked: Asked,
) -> Iterator[_Loop]:
    """Yields the loop at the last checkpoint, or at a fresh state; closes its files."""
    plan, history = run.plan, dict[int, dict[str, float]]()
    teacher_variables, state = run.teacher_variables, run.init()
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.manager(workdir, run.task, history)
        )
        restored = checkpoint.restore(checkpoints, state)
        state = start(state) if restored is None else restored
        step = int(state.step)
        if step:
            print_line(f"{run.config.name}: resuming at step {step}")
        pending = checkpoint.pending(checkpoints, step) if step else []
        generator = stack.enter_context(closing(batches(run, step, asked)))
        writer = stack.enter_context(closing(Writer(workdir, step)))
        # The first process may not have cut off later rows yet.
        logged = report.evaluations(workdir, run.task.headline)
        history |= {at: scores for at, scores in logged.items() if at <= step}
        yield _Loop(
            run=run,
            workdir=workdir,
            events=events,
            asked=asked,
            teacher_variables=teacher_variables,
            checkpoints=checkpoints,
            batches=generator,
            writer=writer,
            finite=Finite(checkpoints, workdir, plan.max_skipped, step),
            stalling=Stalling(run.task, plan.chance_evaluations),
            progress=Progress(run.title, step, plan.total_steps, plan.batch_size),
            # Without jit each operation of the schedule would be a program.
            learning_rate=jax.jit(plan.schedule),
            state=state,
            step=step,
            saved_step=step,
            saved_at=time.monotonic(),
            history=history,
            pending=list(pending),
        )


def _advance(loop: _Loop) -> None:
    """Makes one step."""
    run, plan = loop.run, loop.run.plan
    batch = next(loop.batches)
    note_skipped(
        batch.pop("skipped"), loop.unreadable, run.data.train, plan.max_unreadable
    )
    distill = not (run.method.taps and loop.step % plan.distill_every)
    called_at = time.monotonic()
    batch = sharding.put_batch(batch, run.devices.mesh)
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


def _log_if_due(loop: _Loop) -> None:
    """Logs the steps since the last log, also before each evaluation.

    It raises NotFinite if one of them is not finite, so that no broken step is saved.
    """
    step, plan, finite = loop.step, loop.run.plan, loop.finite
    if not plan.is_due(step, plan.eval_every) and step % plan.log_every:
        return
    loop.events("log", step)
    values = finite.logged(loop.pending)
    # The optimizer does not count skipped updates.
    values["learning_rate"] = loop.learning_rate(step - 1 - finite.skipped)
    values["unreadable"] = len(loop.unreadable)
    values["images_per_second"] = loop.progress.images_per_second(step)
    loop.writer.write(step, values)
    loop.progress.show(step, values)
    loop.stalling.look_at_losses(values)
    loop.pending = []


def _evaluate_if_due(loop: _Loop) -> None:
    """Runs the evaluations that are due and not logged yet."""
    run, plan, step, state = loop.run, loop.run.plan, loop.step, loop.state
    # The first process decides, because the others may see a file later.
    is_missing = lambda is_logged: processes.as_first(not is_logged)
    for name, evaluation in run.evaluations.items():
        if plan.is_due(step, evaluation.every) and is_missing(
            loop.writer.holds(step, f"eval/{name}/")
        ):
            scores = evaluation.evaluate(
                student_variables(state), loop.teacher_variables, asked=loop.asked
            )
            loop.writer.write(step, {f"eval/{name}/{k}": v for k, v in scores.items()})
            print_values(f"{run.title}  {name}", scores)
    if plan.is_due(step, plan.eval_every) and is_missing(step in loop.history):
        loop.events("evaluate", step)
        loop.history[step], loop.evidence = evaluate_student(
            run, state, step, loop.writer, loop.asked
        )
        loop.stalling.look_at_scores(loop.history, loop.evidence)


def _save_if_due(loop: _Loop) -> None:
    """Saves a checkpoint after each evaluation, and if the last one is too old."""
    step, plan = loop.step, loop.run.plan
    is_due = plan.is_due(step, plan.eval_every)
    if not is_due and plan.save_every and not step % min(plan.log_every, LOOK_EVERY):
        # All processes go by the clock of the first one.
        age = time.monotonic() - loop.saved_at
        is_due = bool(processes.as_first(age >= plan.save_every))
    if is_due:
        loop.events("save", step)
        _save(loop)


def _save(loop: _Loop) -> None:
    """Starts to save the state, its scores and the metrics that are not logged yet."""
    rows, step = loop.finite.rows(loop.pending), loop.step
    scores = loop.history.get(step, {})
    checkpoint.save_checkpoint(loop.checkpoints, step, loop.state, scores, rows)
    loop.saved_step, loop.saved_at = step, time.monotonic()


def _stop(loop: _Loop, end: Stopped | Stalled) -> None:
    """Saves the state if it is not saved, and raises the reason of the stop."""
    # A save needs all processes, and only this one has stalled.
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
