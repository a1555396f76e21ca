"""Compares the gradients of a run's losses during its training, and writes them."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jaxtyping import PyTree

from ...core.gradients import ALL, compare_gradients
from ...core.train_state import TrainState
from ...weights.initial import frozen_mask
from ..cluster import sharding
from ..run import Run
from .metrics import Writer, print_line

ARGUMENTS = (
    *("student_apply", "teacher_apply", "distillation"),
    *("task_loss", "weights", "prepare"),
)


def make_diagnosis(run: Run) -> Callable[..., float]:
    """Returns a function that compares the gradients before a step, if that is due.

    It is due at the first step, and then at the first distilled step after each
    ``train.diagnose_every`` steps. It is never due without a teacher.

    Args:
      run: the run, its teacher loaded.

    Returns:
      ``(writer, number of updates, state, teacher's variables, batch) -> seconds`` that
      it took, 0 if it was not due. The figures are written as those of the next step.
    """
    wanted = run.config.train.diagnose_every
    if not (wanted and run.method.taps):
        return lambda *arguments: 0.0
    step_arguments = run.pure_step.keywords
    frozen = run.config.optimizer.frozen
    compare: Callable[..., Any] = functools.partial(
        compare_gradients,
        **{name: step_arguments[name] for name in ARGUMENTS},
        frozen=functools.partial(frozen_mask, patterns=frozen, prefix="")
        if frozen
        else None,
    )
    compiled = sharding.jit_forward(
        lambda variables, batch: compare(*variables, batch), run.devices.mesh
    )
    distilled = run.plan.distill_every
    every = -(-wanted // distilled) * distilled  # a multiple of it

    def diagnose(
        writer: Writer, step: int, state: TrainState, teacher: PyTree, batch: PyTree
    ) -> float:
        if step % every:
            return 0.0
        started = time.monotonic()
        figures = jax.device_get(compiled((state, teacher), batch))
        values = {name: float(value) for name, value in figures.items()}
        writer.write(step + 1, values)
        print_line(f"{run.title}  step {step + 1}  {describe_gradients(values)}")
        return time.monotonic() - started

    return diagnose


def describe_gradients(values: Mapping[str, float]) -> str:
    """Describes compared gradients in a line, for the log.

    Args:
      values: the figures by name, from
        :func:`diffkd_jax.core.gradients.compare_gradients`.

    >>> describe_gradients({"gradient_ratio/kd": 2.0, "gradient_cosine/kd": -0.5})
    'gradient / that of the task: kd 2 (cosine -0.50)'
    """
    prefix = "gradient_ratio/"
    names = [name.removeprefix(prefix) for name in values if name.startswith(prefix)]
    names.sort(key=lambda name: name == ALL)  # the sum is the last one
    parts = []
    for name in names:
        cosine = values[f"gradient_cosine/{name}"]
        angle = "" if cosine != cosine else f" (cosine {cosine:.2f})"
        parts.append(f"{name} {values[prefix + name]:.3g}{angle}")
    return f"gradient / that of the task: {', '.join(parts)}"
