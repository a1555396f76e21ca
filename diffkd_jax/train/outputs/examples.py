"""A few examples and what the models of a run predict, for the task to show."""

import functools
import logging
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ...backend.compiler import compiler_options
from ...core.step import TrainState
from ...weights.output_files import appearing
from ..build import Run, student_variables
from ..cluster import sharding
from ..evaluate import inferring

LOG = logging.getLogger(__name__)
MOST_SHOWN, MOST_PIXELS = 6, 2**22  # of all pictures together
EXAMPLES = "examples.npz"
GIVEN = ("image", "size")  # to a model


def once(run: Run) -> Callable:
    """Compiles what runs once; the results are whole on every device."""
    return functools.partial(
        jax.jit,
        out_shardings=sharding.replicated(run.mesh),
        compiler_options=compiler_options(once=True),
    )


def few(run: Run, most: int) -> Mapping:
    """The first examples to evaluate on, not normalised, fewer where they are large."""
    height, width = run.data.eval_shape[:2]
    return run.examples(max(1, min(most, MOST_PIXELS // (height * width))))


def shown(run: Run, state: TrainState, teacher: bool) -> dict[str, Any]:
    """A few examples and what the models predict of them, for the task to show.

    Args:
      run: at its end.
      state: its last.
      teacher: whether the teacher's predictions are of the task's classes.
    """
    if run.task.show is None:
        return {}
    batch = few(run, MOST_SHOWN)
    if not len(batch["image"]):
        return {}
    models = {"student": (run.student, student_variables(state))}
    if teacher and run.teacher is not None:
        models = {"teacher": (run.teacher, run.teacher_variables), **models}
    batch_in = {k: v for k, v in run.data.normalise(batch).items() if k in GIVEN}
    predicted = {}
    for name, (model, variables) in models.items():
        infer = inferring(run.task, model)
        predict = lambda v, b, infer=infer: run.task.predict(infer(v, b), b)
        predicted[name] = jax.device_get(once(run)(predict)(variables, batch_in))
    kept = {key: batch[key] for key in ("image", "target")}
    return {**kept, "predicted": predicted}


def save_examples(workdir: pathlib.Path, examples: Mapping[str, Any]) -> None:
    """Writes what :func:`shown` gave, so that a comparison can show it again."""
    arrays = flatten_dict(dict(examples), sep="/")
    with appearing(workdir / EXAMPLES) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_examples(workdir: pathlib.Path) -> dict[str, Any]:
    """The inverse of :func:`save_examples`; empty where there are none."""
    file = workdir / EXAMPLES
    if not file.exists():
        return {}
    try:
        # Opened here, for NumPy leaves a file open that is no archive.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return unflatten_dict(dict(arrays), sep="/")
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        LOG.warning("%s: its examples are not shown: %s", file, error)
        return {}


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
