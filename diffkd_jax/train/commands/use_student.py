"""Runs the commands that evaluate or use the exported student of a run."""

import pathlib
from collections.abc import Collection
from typing import Any

import jax

from ...config.finished_run import as_trained
from ...config.resolve import resolve
from ...config.sections import Config
from ...models.inputs import check_input, describe_input
from ...weights.checks import check_finite, expand
from ...weights.files import load_model
from ...weights.paths import model_file
from ...weights.untrained import is_classifier
from ..build import build_scoring
from ..cluster.signals import ShouldStop, never
from ..outputs.metrics import print_line, print_values
from ..outputs.predictions import write_predictions


def use_student(
    config: Any,
    workdir: pathlib.Path,
    should_stop: ShouldStop = never,
    *,
    fields_set: Collection[str] | None = None,
) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing.

    If ``config.mode`` is "predict", it writes the student's predictions instead. Data,
    task and student are those of the run, except for fields that the caller sets.

    Args:
      config: a config as recipes make it.
      workdir: directory of a finished run.
      should_stop: returns the number of the signal to stop for, or 0.
      fields_set: paths of the fields that the caller sets, see
        :func:`diffkd_jax.config.finished_run.as_trained`.

    Returns:
      The scores; {} after predictions.

    Raises:
      ValueError: the student or the record of the run does not fit.
      FileNotFoundError: there is no student, or data are missing.
      Stopped: a stop was requested.
    """
    model_file(workdir)  # raises before data are opened
    run_config = _without_training_split(
        resolve(as_trained(config, workdir, fields_set))
    )
    scoring = build_scoring(run_config)
    data, task = scoring.data, scoring.task
    model = load_model(workdir, run_config.student.model)
    check_finite(f"workdir: {workdir}", model.variables)
    check_input(
        f"workdir: {workdir}",
        model.meta,
        {
            **describe_input(data.meta, data.eval_shape[-1]),
            "input_shape": data.eval_shape,
        },
        lambda: is_classifier(model),
    )
    if task.check is not None:
        task.check(f"workdir: {workdir}", model.meta, data.meta)
    variables = jax.device_put(
        model.variables, scoring.devices.choose_shardings(model.variables)
    )
    if run_config.mode == "predict":
        folder = expand(run_config.predictions or workdir / "predictions")
        write_predictions(scoring, model, variables, folder, should_stop)
        print_line(f"{run_config.name}: predictions in {folder}")
        return {}
    values, _ = scoring.evaluate(model, variables, should_stop=should_stop)
    print_values("student", values)
    return values


def _without_training_split(config: Config) -> Config:
    """Returns a config for which no training split is opened; it may be missing."""
    data = config.data.replace(keep_empty=True)
    if data.eval_split != "holdout":
        data = data.replace(train_split=data.eval_split)
    if data.canvas:  # every image of the evaluation fits on it
        data = data.replace(train_size=data.canvas, train_resize=())
    return config.replace(data=data)
