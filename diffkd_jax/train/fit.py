"""Runs the training loop: restores a run, then trains it to its last step."""

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import jax

from ..core.train_state import TrainState
from .batches import training_batches
from .cluster.signals import ShouldStop, Stalled, Stopped, never, stop_if_requested
from .finite import FiniteCheck
from .loop import (
    Loop,
    advance,
    evaluate_if_due,
    evaluate_student,
    log_if_due,
    save_and_stop,
    save_if_due,
)
from .outputs import report
from .outputs.diagnosis import make_diagnosis
from .outputs.metrics import Progress, Writer, print_line
from .run import Fitted, Run
from .stalling import Stalling
from .workdir import checkpoint
from .workdir.checkpoint_manager import open_checkpoints


def ignore_event(event: str, step: int) -> None:
    """Takes no notice of an event of the loop; the default of :func:`fit`.

    Args:
      event: ``"log"``, ``"evaluate"`` or ``"save"``.
      step: number of updates.

    >>> ignore_event("log", 1)
    """


def fit(
    run: Run,
    workdir: pathlib.Path,
    *,
    initialise: Callable[[TrainState], TrainState] = lambda state: state,
    batches: Callable[[Run, int, ShouldStop], Iterator[Any]] = training_batches,
    events: Callable[[str, int], None] = ignore_event,
    should_stop: ShouldStop = never,
) -> Fitted:
    """Trains a run to its last step, from its last checkpoint if it has one.

    Args:
      run: a run, its teacher loaded.
      workdir: directory of the run, which no other run uses.
      initialise: ``fresh state -> initial state``, such as one with other weights. It
        is not called if a checkpoint is restored.
      batches: ``(run, number of steps done, should_stop) -> iterator`` over this
        process's batches, with the entries of those of
        :func:`diffkd_jax.train.batches.training_batches`; ``skipped`` may be missing.
        If the iterator has a method ``close``, it is called at the end.
      events: called with ``"log"``, ``"evaluate"`` or ``"save"`` and the step, before
        the loop logs, evaluates or saves.
      should_stop: returns the number of the signal to stop for, or 0. It is called
        after each step and between the batches of an evaluation.

    Returns:
      The last state, the scores and the speed.

    Raises:
      Stopped: a stop was requested, and the state is saved.
      Stalled: no batch came in time.
      ValueError: a number is not finite, a checkpoint does not fit, or the teacher has
        no variables.
    """
    total_steps = run.plan.total_steps
    with _open_loop(run, workdir, initialise, batches, events, should_stop) as loop:
        try:
            stop_if_requested(should_stop)
            if loop.step:  # an earlier call may have stopped before this evaluation
                evaluate_if_due(loop)
            while loop.step < total_steps:
                advance(loop)
                log_if_due(loop)
                stop_if_requested(should_stop)
                evaluate_if_due(loop)
                save_if_due(loop)
            if loop.evidence is None:  # resumed after the last evaluation
                _, loop.evidence = evaluate_student(
                    run, loop.state, total_steps, None, should_stop
                )
        except (Stopped, Stalled) as end:
            save_and_stop(loop, end)
        loop.checkpoints.wait_until_finished()
        images_per_second = loop.progress.images_per_second(total_steps)
    assert loop.evidence is not None  # for mypy
    history = [loop.history[step] for step in sorted(loop.history)]
    return Fitted(loop.state, history, loop.evidence, images_per_second)


@contextlib.contextmanager
def _open_loop(
    run: Run,
    workdir: pathlib.Path,
    initialise: Callable[[TrainState], TrainState],
    batches: Callable[[Run, int, ShouldStop], Iterator[Any]],
    events: Callable[[str, int], None],
    should_stop: ShouldStop,
) -> Iterator[Loop]:
    """Yields the loop at the last checkpoint or an initial state, with files open.

    The files are closed at the end.
    """
    plan, history = run.plan, dict[int, dict[str, float]]()
    teacher_variables, state = run.teacher_variables, run.init()
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(open_checkpoints(workdir, run.task, history))
        restored = checkpoint.restore(checkpoints, state)
        state = initialise(state) if restored is None else restored
        step = int(state.step)
        if step:
            print_line(f"{run.config.name}: resuming at step {step}")
        pending = checkpoint.read_pending(checkpoints, step) if step else []
        iterator = batches(run, step, should_stop)
        stack.callback(getattr(iterator, "close", lambda: None))
        writer = stack.enter_context(closing(Writer(workdir, step)))
        # The first process may not have cut off later rows yet.
        logged = report.read_evaluations(workdir, run.task.headline)
        history |= {at: scores for at, scores in logged.items() if at <= step}
        yield Loop(
            run=run,
            workdir=workdir,
            events=events,
            should_stop=should_stop,
            teacher_variables=teacher_variables,
            checkpoints=checkpoints,
            batches=iterator,
            writer=writer,
            finite=FiniteCheck(checkpoints, workdir, plan.max_skipped, step),
            stalling=Stalling(run.task, plan.chance_evaluations),
            progress=Progress(run.title, step, plan.total_steps, plan.batch_size),
            # Compiled as a whole; otherwise each operation would be a program.
            learning_rate=jax.jit(plan.schedule),
            diagnose=make_diagnosis(run),
            state=state,
            step=step,
            saved_step=step,
            saved_at=time.monotonic(),
            history=history,
            pending=list(pending),
        )
