"""The training loop: restore, step, log, evaluate, save, stop."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import jax

from ..core.step import TrainState
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

LOOK_EVERY = 100  # steps between two looks at the clock, at most


class Fitted(NamedTuple):
    """What a training leaves.

    Attributes:
      state: after the last step.
      history: scores of every evaluation, in order.
      seen: evidence of the last evaluation, of the student.
      images_per_second: without compilation.
    """

    state: TrainState
    history: list[dict[str, float]]
    seen: Evidence
    images_per_second: float


def ema_variables(state: TrainState) -> dict[str, Any]:
    """What its average is applied to, where the state carries one."""
    return {"params": state.ema["params"], **state.ema["state"]}


class Log(NamedTuple):
    """Where scores go.

    Attributes:
      writer: of the workdir.
      history: scores by step.
      events: called before an evaluation.
    """

    writer: Writer
    history: dict[int, dict[str, float]]
    events: Callable[[str, int], None]


def nothing(event: str, step: int) -> None:
    """Called at an event of the loop: nothing happens."""


def fit(
    run: Run,
    workdir: pathlib.Path,
    *,
    start: Callable[[TrainState], TrainState] = lambda state: state,
    events: Callable[[str, int], None] = nothing,
    asked: Asked = never,
) -> Fitted:
    """Trains a run to its last step; goes on where its last checkpoint is.

    Args:
      run: from :func:`diffkd_jax.train.build.build`, its teacher loaded.
      workdir: directory that is the run's own.
      start: makes of a fresh state the one to begin with, where nothing is restored.
      events: called with ``"log"``, ``"evaluate"`` and ``"save"`` and the step, before
        each.
      asked: whether to stop, see :mod:`diffkd_jax.train.cluster.signals`; asked after
        each step and between the batches of an evaluation.

    Raises:
      Stopped: it was asked for, and all that was done is saved.
      ValueError: a number that is not finite, a checkpoint that does not fit, or a
        teacher without variables.
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
        found = report.evaluations(workdir, run.task.headline)
        history |= {at: scores for at, scores in found.items() if at <= first}
        log = Log(writer, history, events)
        stalling = Stalling(run.task, plan.chance_evaluations)
        finite = Finite(checkpoints, workdir, plan.max_skipped, first)
        progress = Progress(run.title, first, plan.total_steps, plan.batch_size)
        seen, clock, begun = None, time.monotonic(), list[Callable]()
        try:
            stop_here(asked)
            if first:  # which an earlier call may have had no time for
                seen = evaluate_due(run, state, first, teacher_variables, log, asked)
            for step in range(first + 1, plan.total_steps + 1):
                batch = _next(run, batches, unreadable)
                between = run.method.taps and (step - 1) % plan.distill_every
                update = run.task_step if between else run.step
                asked_at = time.monotonic()
                state, metrics = update(
                    state, teacher_variables, sharding.put_batch(batch, run.mesh)
                )
                if update not in begun:
                    # The rate is that of steps, compilation is left out.
                    jax.block_until_ready(metrics)
                    if step == 1 and processes.is_primary():
                        log_first_step(_numbers(metrics), run.method.taps)
                    if begun:
                        progress.leave_out(time.monotonic() - asked_at)
                    else:
                        progress = Progress(
                            run.title, step, plan.total_steps, plan.batch_size
                        )
                    begun.append(update)
                pending.append((step, metrics))
                # Dispatch runs ahead of the device by one step, whose batch is copied
                # while this one computes; without a bound, batches would pile up. The
                # metrics of the step before are fetched meanwhile.
                pending[-2:-1] = jax.device_get(pending[-2:-1])
                due = plan.is_due(step, plan.eval_every)
                # Before a checkpoint too: a broken step is never saved.
                if due or step % plan.log_every == 0:
                    events("log", step)
                    values = finite.logged(pending)
                    # The optimizer counts the updates that there were.
                    values["learning_rate"] = run.schedule(step - 1 - finite.skipped)
                    values["unreadable"] = len(unreadable)
                    values["images_per_second"] = progress.images_per_second(step)
                    writer.write(step, values)
                    progress.show(step, values)
                    stalling.look_at_losses(values)
                    pending = []
                stop_here(asked)
                fresh = evaluate_due(run, state, step, teacher_variables, log, asked)
                if fresh is not None:
                    seen = fresh
                    stalling.look_at_scores(history, fresh)
                if due or _is_late(plan, step, clock):
                    events("save", step)
                    rows = finite.rows(pending)
                    checkpoint.save_checkpoint(
                        checkpoints, step, state, history.get(step, {}), rows
                    )
                    saved, clock = step, time.monotonic()
            if seen is None:  # resumed at the end
                _, seen = evaluate_student(run, state, plan.total_steps, None, asked)
        except (Stopped, Stalled) as end:
            stalled, step = isinstance(end, Stalled), int(state.step)
            if stalled and jax.process_count() > 1:  # the others are not here
                raise
            if step > saved:
                rows = finite.rows(pending)
                checkpoint.save_checkpoint(checkpoints, step, state, {}, rows)
            checkpoints.wait_until_finished()
            if isinstance(end, Stalled):
                raise
            where = f"saved in {workdir}" if step else "nothing to save"
            raise Stopped(
                f"{run.title}: stopped at step {step} of {plan.total_steps}, {where}; "
                "the same command goes on",
                end.number,
            ) from None
        checkpoints.wait_until_finished()
        rate = progress.images_per_second(plan.total_steps)
    return Fitted(state, [history[k] for k in sorted(history)], seen, rate)


def evaluate_due(
    run: Run,
    state: TrainState,
    step: int,
    teacher_variables: Any,
    log: Log,
    asked: Asked,
) -> Evidence | None:
    """Evaluates what is due at a step and is not in the log; returns its evidence.

    Args:
      run: of the loop.
      state: after the step.
      step: number of updates.
      teacher_variables: on the devices.
      log: of the loop.
      asked: of the loop.
    """
    plan, (writer, history, events) = run.plan, log
    # The first process says what is there: others may see a file later.
    lacks = lambda there: processes.as_first(not there)
    for name, other in run.others.items():
        if plan.is_due(step, other.every) and lacks(
            writer.holds(step, f"eval/{name}/")
        ):
            scores = other.evaluate(
                student_variables(state), teacher_variables, asked=asked
            )
            writer.write(step, {f"eval/{name}/{k}": v for k, v in scores.items()})
            print_values(f"{run.title}  {name}", scores)
    if not (plan.is_due(step, plan.eval_every) and lacks(step in history)):
        return None
    events("evaluate", step)
    history[step], seen = evaluate_student(run, state, step, writer, asked)
    return seen


def evaluate_student(
    run: Run,
    state: TrainState,
    step: int,
    writer: Writer | None,
    asked: Asked = never,
) -> tuple[dict[str, float], Evidence]:
    """Evaluates the student and, with the prefix ``ema_``, its average.

    With a writer they are written and shown.
    """
    values, seen = run.evaluate(run.student, student_variables(state), asked=asked)
    if state.ema:
        average, _ = run.evaluate(run.student, ema_variables(state), asked=asked)
        values |= {f"ema_{name}": value for name, value in average.items()}
    if writer is not None:
        writer.write(step, {f"eval/{k}": v for k, v in values.items()})
        print_values(f"{run.title}  epoch {step / run.plan.steps_per_epoch:g}", values)
    return values, seen


def _numbers(metrics: Any) -> dict[str, float]:
    return {k: float(v) for k, v in jax.device_get(metrics).items() if v.ndim == 0}


def _next(run: Run, batches: Any, unreadable: dict[int, str]) -> dict[str, Any]:
    """The next batch without what it says of unreadable pictures."""
    batch = next(batches)
    skipped, split = batch.pop("skipped"), run.data.train
    note_skipped(skipped, unreadable, split, run.plan.max_unreadable)
    return batch


def _is_late(plan: Plan, step: int, clock: float) -> bool:
    """Whether the last checkpoint is too old, by the clock of the first process."""
    if not plan.save_every or step % min(plan.log_every, LOOK_EVERY):
        return False
    return bool(processes.as_first(time.monotonic() - clock >= plan.save_every))
