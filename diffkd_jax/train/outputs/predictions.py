"""Writes a trained student's predictions for a split, in the format of its task."""

import itertools
import json
import pathlib
import re
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

import jax
from jaxtyping import PyTree

from ...models.model import Model
from ..batches import evaluation_batches
from ..cluster import sharding
from ..cluster.signals import ShouldStop, never, stop_if_requested
from ..components import report_missing_output
from ..evaluate import make_infer
from ..run import Scoring
from ..workdir.disk_errors import report_disk_faults


def write_predictions(
    scoring: Scoring,
    model: Model,
    variables: PyTree,
    folder: pathlib.Path,
    should_stop: ShouldStop = never,
) -> None:
    """Writes a student's predictions for the evaluation split to a folder.

    The folder appears when it is complete.

    Args:
      scoring: the data, the task and the devices.
      model: the student.
      variables: its variables on the devices.
      folder: the folder to write, which must not exist.
      should_stop: returns the number of the signal to stop for, or 0.

    Raises:
      ValueError: the folder exists, there are several processes, or the task writes no
        predictions.
      OSError: the folder cannot be created.
      Stopped: a stop was requested; what was written is removed.
    """
    if scoring.task.write is None:
        raise ValueError(
            "mode: found 'predict' for a task that writes no predictions, expected one "
            "with the field write"
        )
    if jax.process_count() > 1:
        raise ValueError(
            f"mode: found 'predict' in {jax.process_count()} processes, expected one"
        )
    if folder.exists():
        raise ValueError(
            f"predictions: found {folder}, expected no such folder; choose another by "
            "--config.predictions=FOLDER"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name).cleanup()
    except OSError as error:
        raise OSError(
            f"predictions: found {folder}, where no folder can be made "
            f"({error.strerror}), expected a place that can be written to"
        ) from error
    with (
        report_disk_faults(folder.parent),
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=folder.name) as temporary,
        closing(
            iterate_predictions(scoring, model, variables, should_stop)
        ) as predicted,
    ):
        partial = pathlib.Path(temporary) / folder.name
        partial.mkdir()
        scoring.task.write(partial, predicted, scoring.data.meta)
        partial.replace(folder)


def iterate_predictions(
    scoring: Scoring,
    model: Model,
    variables: PyTree,
    should_stop: ShouldStop = never,
) -> Generator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields name, prediction and batch entries of each example to evaluate.

    Args:
      scoring: the data, the task and the devices.
      model: the student.
      variables: its variables on the devices.
      should_stop: returns the number of the signal to stop for, or 0.

    Yields:
      ``(name, prediction, entries)``. Prediction and entries are dicts of arrays
      without the batch axis. The entries hold ``id`` if the data set has ids.
    """
    config, data, task, devices, _ = scoring
    infer = make_infer(task, model)

    def forward(variables: PyTree, batch: Any) -> Any:
        batch = data.normalise(batch)
        outputs = infer(variables, batch)
        with report_missing_output(outputs):
            return task.predict(outputs, batch)

    compiled = sharding.jit_forward(forward, devices.mesh)
    split = data.evaluation
    ids = None if split.box_summary is None else split.box_summary.ids
    names = shorten_names([split.name(i) for i in range(split.size)])
    make = evaluation_batches(config.data, data, split, devices.mesh)
    with closing(make(should_stop)) as batches:
        for batch in batches:
            stop_if_requested(should_stop)
            device_batch = sharding.put_batch(batch, devices.mesh)
            predicted = jax.device_get(compiled(variables, device_batch))
            for row, index in enumerate(batch["index"]):
                if batch["mask"][row]:
                    take = lambda tree, row=row: jax.tree.map(lambda x: x[row], tree)
                    stored_id = {} if ids is None else {"id": json.loads(ids[index])}
                    yield names[index], take(predicted), take(batch) | stored_id


def shorten_names(names: Sequence[str]) -> list[str]:
    """Returns short relative paths for files of predictions, one for each example.

    Folders that all names share are left out, and so are endings such as ``.png``.
    Endings stay if two paths would be equal without them.

    Args:
      names: names of the examples, such as paths of files.

    Returns:
      One path for each name.

    >>> shorten_names(["/data/val/a/1.png", "/data/val/b/1.png"])
    ['a/1', 'b/1']
    >>> shorten_names(["example 0", "example 1"])
    ['example_0', 'example_1']
    """
    paths = [name.split("/") for name in names]
    folders = zip(*(parts[:-1] for parts in paths), strict=False)
    shared = len(list(itertools.takewhile(lambda same: len(set(same)) == 1, folders)))
    short = ["/".join(parts[shared:]) for parts in paths]
    short = [re.sub(r"[^\w./-]|\.\.+", "_", name) for name in short]
    plain = [re.sub(r"\.\w{1,5}$", "", name) for name in short]
    for candidates in (plain, short):
        if len(set(candidates)) == len(candidates):
            return candidates
    return [f"{i}_{name}" for i, name in enumerate(plain)]
