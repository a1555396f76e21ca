"""Collects a few examples with the models' predictions, for figures of the task."""

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
from ...core.train_state import TrainState
from ...data.pipeline.groups import rows_of_same_group
from ...weights.output_files import appearing
from ..cluster import sharding
from ..cluster.sharding import Devices
from ..evaluate import make_infer
from ..run import Run, student_variables

LOG = logging.getLogger(__name__)
MOST_SHOWN, MOST_PIXELS = 6, 2**22  # examples, and pixels of all images together
EXAMPLES = "examples.npz"
MODEL_INPUTS = ("image", "size")  # entries of a batch that a model reads


def jit_once(devices: Devices) -> Callable[..., Any]:
    """Returns a form of ``jax.jit`` for functions that run only once.

    They compile faster and run slower. All devices get whole results.

    Args:
      devices: the devices of the run.

    Returns:
      ``function -> compiled function``.
    """
    return functools.partial(
        jax.jit,
        out_shardings=sharding.replicated(devices.mesh),
        compiler_options=compiler_options(once=True),
    )


def first_examples(run: Run, max_count: int) -> Mapping[str, Any]:
    """Returns the first examples of the evaluation split.

    Args:
      run: the run.
      max_count: largest number of examples. There are fewer if the images are large:
        together they have at most :data:`MOST_PIXELS` pixels.

    Returns:
      A batch, not normalised. The number of examples is a multiple of
      ``train.norm_group_size``, so the batch may be empty.
    """
    data, group = run.data, run.config.train.norm_group_size
    height, width = data.eval_shape[:2]
    count = max(1, min(max_count, MOST_PIXELS // (height * width)))
    rows = rows_of_same_group(data.evaluation, 0)[:count]
    rows = rows[: len(rows) - len(rows) % max(group, 1)]
    if not len(rows):
        return {"image": np.zeros((0, *data.eval_shape), np.uint8)}
    batch = data.evaluation.fetch(rows)
    return data.transform.evaluate(batch, run.config.data)


def predict_examples(run: Run, state: TrainState, teacher: bool) -> dict[str, Any]:
    """Returns a few examples and what the models predict for them.

    Args:
      run: a finished run.
      state: its last state.
      teacher: whether the teacher predicts too; it must know the classes of the task.

    Returns:
      ``image``, ``target``, and ``predicted`` with the predictions by model. {} if the
      task draws no examples or there are none.
    """
    if run.task.show is None:
        return {}
    batch = first_examples(run, MOST_SHOWN)
    if not len(batch["image"]):
        return {}
    models = {"student": (run.student, student_variables(state))}
    if teacher and run.teacher is not None:
        models = {"teacher": (run.teacher, run.teacher_variables), **models}
    normalised = run.data.normalise(batch)
    inputs = {name: x for name, x in normalised.items() if name in MODEL_INPUTS}
    predicted = {}
    for name, (model, variables) in models.items():
        infer = make_infer(run.task, model)
        predict = lambda v, b, infer=infer: run.task.predict(infer(v, b), b)
        predicted[name] = jax.device_get(
            jit_once(run.devices)(predict)(variables, inputs)
        )
    return {
        "image": batch["image"],
        "target": batch["target"],
        "predicted": predicted,
    }


def save_examples(workdir: pathlib.Path, examples: Mapping[str, Any]) -> None:
    """Writes a few examples with predictions, so that a comparison can draw them.

    Args:
      workdir: directory of the run.
      examples: from :func:`predict_examples`.
    """
    arrays = flatten_dict(dict(examples), sep="/")
    with appearing(workdir / EXAMPLES) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_examples(workdir: pathlib.Path) -> dict[str, Any]:
    """Reads what :func:`save_examples` wrote.

    Args:
      workdir: directory of the run.

    Returns:
      The examples. {} if there is no file; the same with a warning if it is damaged.

    >>> read_examples(pathlib.Path("no_run"))
    {}
    """
    file = workdir / EXAMPLES
    if not file.exists():
        return {}
    try:
        # Opened here, because NumPy does not close a file that is not an archive.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return unflatten_dict(dict(arrays), sep="/")
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        LOG.warning("%s: its examples are not shown: %s", file, error)
        return {}


def merge_examples(workdir: pathlib.Path, methods: Sequence[str]) -> dict[str, Any]:
    """Merges the examples that the runs of a comparison saved.

    Args:
      workdir: directory of the comparison.
      methods: methods of the runs, whose names are those of their folders.

    Returns:
      The same as :func:`predict_examples`, with ``predicted`` for the teacher and for
      each method's student. {} if no run saved examples.
    """
    by_method = {method: read_examples(workdir / method) for method in methods}
    first = next((examples for examples in by_method.values() if examples), {})
    if not first:
        return {}
    teachers = [e["predicted"]["teacher"] for e in by_method.values()
                if "teacher" in e.get("predicted", {})]  # fmt: skip
    predicted = {"teacher": teachers[0]} if teachers else {}
    for method, examples in by_method.items():
        if examples:
            predicted[method] = examples["predicted"]["student"]
    return {**first, "predicted": predicted}
