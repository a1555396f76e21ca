"""Runs the training loop: restore, then step, log, evaluate and save until it stops."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import jax

from ..core.train_state import TrainState
from ..tasks import Evidence
from .batches import training_batches
from .cluster.signals import Asked, Stalled, Stopped, never, stop_here
from .finite import Finite
from .loop import (
    Loop,
    advance,
    evaluate_if_due,
    evaluate_student,
    log_if_due,
    save_if_due,
    stop,
)
from .outputs import report
from .outputs.metrics import Progress, Writer, print_line
from .run import Run
from .stalling import Stalling
from .workdir import checkpoint
from .workdir.checkpoint_manager import open_checkpoints


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
    batches: Callable[[Run, int, Asked], Generator[Any]] = training_batches,
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
                evaluate_if_due(loop)
            while loop.step < total_steps:
                advance(loop)
                log_if_due(loop)
                stop_here(asked)
                evaluate_if_due(loop)
                save_if_due(loop)
            if loop.evidence is None:  # resumed after the last evaluation
                _, loop.evidence = evaluate_student(
                    run, loop.state, total_steps, None, asked
                )
        except (Stopped, Stalled) as end:
            stop(loop, end)
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
    batches: Callable[[Run, int, Asked], Generator[Any]],
    events: Callable[[str, int], None],
    asked: Asked,
) -> Iterator[Loop]:
    """Yields the loop at the last checkpoint, or at a fresh state; closes its files."""
    plan, history = run.plan, dict[int, dict[str, float]]()
    teacher_variables, state = run.teacher_variables, run.init()
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints(workdir, run.task, history))
        restored = checkpoint.restore(checkpoints, state)
        state = start(state) if restored is None else restored
        step = int(state.step)
        if step:
            print_line(f"{run.config.name}: resuming at step {step}")
        pending = checkpoint.read_pending(checkpoints, step) if step else []
        generator = stack.enter_context(closing(batches(run, step, asked)))
        writer = stack.enter_context(closing(Writer(workdir, step)))
        # The first process may not have cut off later rows yet.
        logged = report.read_evaluations(workdir, run.task.headline)
        history |= {at: scores for at, scores in logged.items() if at <= step}
        yield Loop(
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
