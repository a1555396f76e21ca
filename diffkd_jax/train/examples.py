"""A few examples and what the models of a run predict, for the task to show."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ..core.platform import compiler_options
from ..core.step import TrainState
from . import sharding
from .build import Run, student_variables

MOST_SHOWN = 6
EXAMPLES = "examples.npz"


def once(run: Run) -> Callable:
    """Compiles what runs once; the results are whole on every device."""
    return functools.partial(
        jax.jit,
        out_shardings=sharding.replicated(run.mesh),
        compiler_options=compiler_options(once=True),
    )


def shown(run: Run, state: TrainState, teacher: bool) -> dict[str, Any]:
    """A few examples and what the models predict of them, for the task to show.

    Args:
      run: at its end.
      state: its last.
      teacher: whether the teacher's predictions are of the task's classes.
    """
    if run.task.show is None:
        return {}
    batch = run.examples(MOST_SHOWN)
    if not len(batch["image"]):
        return {}
    models = {"student": (run.student, student_variables(state))}
    if teacher and run.teacher is not None:
        models = {"teacher": (run.teacher, run.teacher_variables), **models}
    given = {"image": run.data.normalise(batch)["image"]}
    predicted = {
        name: jax.device_get(
            once(run)(lambda v, b, m=model: run.task.predict(m.infer(v, b), b))(
                variables, given
            )
        )
        for name, (model, variables) in models.items()
    }
    kept = {key: batch[key] for key in ("image", "target")}
    return {**kept, "predicted": predicted}


def save_examples(workdir: pathlib.Path, examples: Mapping[str, Any]) -> None:
    """Writes what :func:`shown` gave, so that a comparison can show it again."""
    partial = workdir / "examples.partial.npz"
    np.savez_compressed(partial, **flatten_dict(dict(examples), sep="/"))
    partial.replace(workdir / EXAMPLES)


def read_examples(workdir: pathlib.Path) -> dict[str, Any]:
    """The inverse of :func:`save_examples`; empty where there are none."""
    file = workdir / EXAMPLES
    if not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        return unflatten_dict(dict(arrays), sep="/")


def compared_examples(workdir: pathlib.Path, methods: Sequence[str]) -> dict[str, Any]:
    """Examples of several runs as one: what the teacher and each student predict."""
    found = {method: read_examples(workdir / method) for method in methods}
    first = next((examples for examples in found.values() if examples), {})
    if not first:
        return {}
    teachers = [e["predicted"]["teacher"] for e in found.values()
                if "teacher" in e.get("predicted", {})]  # fmt: skip
    predicted = {"teacher": teachers[0]} if teachers else {}
    for method, examples in found.items():
        if examples:
            predicted[method] = examples["predicted"]["student"]
    return {**first, "predicted": predicted}
