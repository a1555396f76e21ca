"""The training loop: restore, step, log, evaluate, checkpoint."""

import contextlib
import pathlib
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from ..core.step import TrainState
from ..data import pipeline
from ..tasks import Evidence
from . import checkpoint, report, sharding
from .build import Run, student_variables
from .finite import require_finite
from .metrics import Progress, Writer, print_line, print_values


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
    """The same of its average, where the state carries one."""
    return {"params": state.ema["params"], **state.ema["state"]}


def nothing(event: str, step: int) -> None:
    """Called at an event of the loop: nothing happens."""


def fit(
    run: Run,
    workdir: pathlib.Path,
    *,
    start: Callable[[TrainState], TrainState] = lambda state: state,
    events: Callable[[str, int], None] = nothing,
) -> Fitted:
    """Trains a run to its last step; goes on where its last checkpoint is.

    Args:
      run: from :func:`diffkd_jax.train.build.build`, its teacher loaded.
      workdir: directory that is the run's own.
      start: makes of a fresh state the one to begin with, where nothing is restored.
      events: called with ``"log"``, ``"evaluate"`` and ``"save"`` and the step, before
        each.

    Raises:
      ValueError: a number that is not finite, a checkpoint that does not fit, or a
        teacher without variables.
    """
    plan, teacher_variables = run.plan, run.teacher_variables
    state, unreadable = run.init(), set[int]()
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(checkpoint.manager(workdir, run.task))
        restored = checkpoint.restore(checkpoints, state)
        state = start(state) if restored is None else restored
        first = int(state.step)
        if first:
            print_line(f"{run.title.split()[0]}: resuming at step {first}")
        batches = run.batches(first)
        writer = stack.enter_context(closing(Writer(workdir, first)))
        history = report.evaluations(workdir, run.task.headline)
        progress = Progress(run.title, first, plan.total_steps, plan.batch_size)
        pending: list[tuple[int, Any]] = []
        seen = None
        for step in range(first + 1, plan.total_steps + 1):
            batch = _next(run, batches, unreadable)
            state, metrics = run.step(
                state, teacher_variables, sharding.put_batch(batch, run.mesh)
            )
            if step == first + 1:
                # The rate is that of steps, compilation is left out.
                jax.block_until_ready(metrics)
                progress = Progress(run.title, step, plan.total_steps, plan.batch_size)
            pending.append((step, metrics))
            # Dispatch runs ahead of the device by one step, whose batch is copied
            # while this one computes; without a bound, batches would pile up.
            jax.block_until_ready([m for _, m in pending[-2:-1]])
            due = step == plan.total_steps or step % plan.eval_every == 0
            # Before a checkpoint too: a broken step is never saved.
            if due or step % plan.log_every == 0:
                events("log", step)
                values = _averaged(pending)
                require_finite(values.pop("rows"), checkpoints.all_steps(), workdir)
                values["learning_rate"] = run.schedule(step - 1)
                values["unreadable"] = len(unreadable)
                values["images_per_second"] = progress.images_per_second(step)
                writer.write(step, values)
                progress.show(step, values)
                pending = []
            for name, other in run.others.items():
                if step % other.every == 0 or step == plan.total_steps:
                    scores = other.evaluate(student_variables(state), teacher_variables)
                    writer.write(
                        step, {f"eval/{name}/{k}": v for k, v in scores.items()}
                    )
                    print_values(f"{run.title}  {name}", scores)
            if due:
                events("evaluate", step)
                history[step], seen = evaluate(run, state, step, writer)
                events("save", step)
                checkpoint.save(checkpoints, step, state, history[step])
        if seen is None or plan.total_steps not in history:  # resumed at the end
            lost = plan.total_steps not in history
            scores, seen = evaluate(
                run, state, plan.total_steps, writer if lost else None
            )
            history.setdefault(plan.total_steps, scores)
        checkpoints.wait_until_finished()
        rate = progress.images_per_second(plan.total_steps)
    return Fitted(state, [history[k] for k in sorted(history)], seen, rate)


def evaluate(
    run: Run, state: TrainState, step: int, writer: Writer | None
) -> tuple[dict[str, float], Evidence]:
    """Scores of the student and, with the prefix ``ema_``, of its average.

    With a writer they are written and shown.
    """
    values, seen = run.evaluate(run.student, student_variables(state))
    if state.ema:
        average, _ = run.evaluate(run.student, ema_variables(state))
        values |= {f"ema_{name}": value for name, value in average.items()}
    if writer is not None:
        writer.write(step, {f"eval/{k}": v for k, v in values.items()})
        print_values(f"{run.title}  epoch {step / run.plan.steps_per_epoch:g}", values)
    return values, seen


def _next(run: Run, batches: Any, unreadable: set[int]) -> dict[str, Any]:
    """The next batch without what it says of unreadable pictures."""
    batch = next(batches)
    skipped, split = batch.pop("skipped"), run.data.train
    pipeline.note_skipped(skipped, unreadable, split, run.plan.max_unreadable)
    return batch


def _averaged(pending: list[tuple[int, Any]]) -> dict[str, Any]:
    """Means over the steps since the last log; the steps themselves as ``rows``."""
    rows = jax.device_get([metrics for _, metrics in pending])
    steps = [step for step, _ in pending]
    means = {name: np.mean([row[name] for row in rows], 0) for name in rows[0]}
    return {**means, "rows": dict(zip(steps, rows, strict=True))}
