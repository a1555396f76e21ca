"""Runs the command that trains a student, and its teacher first."""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ...config.resolve import resolve
from ...config.sections import Config
from ...io.best_effort import attempt, noting
from ...models.model import Model
from ...weights.checks import check_finite
from ...weights.files import export_model
from ...weights.output_files import EMA_FILE, MODEL_FILE, file_digest
from ..build import build
from ..check import check_teacher
from ..cluster import processes, sharding
from ..cluster.signals import Asked, never, stop_here
from ..finite import NotFinite
from ..fit import Fitted, fit
from ..initial_state import with_initial_weights
from ..outputs import report, summary
from ..outputs.examples import predict_examples, save_examples
from ..outputs.metrics import print_line, print_values
from ..outputs.trajectories import trace_denoising
from ..preflight import check_start
from ..run import Run, ema_variables, student_variables
from ..teacher import (
    check_source,
    directory_of,
    load_teacher,
    teacher_config,
    teacher_fields_named,
)
from ..workdir.claim import claim_workdir
from ..workdir.directory import (
    REPORT,
    SUMMARY,
    read_summary,
    write_json,
)
from ..workdir.disk_errors import disk_faults_named, moving_named
from ..workdir.identity import record_divergence, record_teacher
from ..workdir.lock import locked

LOG = logging.getLogger(__name__)
EXPORTS = "sha256"  # key of the summary: digests of the exported files, by name


def train(config: Any, workdir: pathlib.Path, asked: Asked = never) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes an unfinished run.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the run, created if needed.
      asked: whether to stop, see :mod:`diffkd_jax.train.cluster.signals`.

    Returns:
      The content of ``summary.json``: method, final and best scores, and so on.

    Raises:
      ValueError: the config or the data are wrong, the workdir belongs to another
        config, or a number is not finite.
      FileNotFoundError: the data or the teacher are missing.
      Stopped: a stop was requested; the same call resumes the run.
    """
    config = resolve(config)
    run = build(config)
    stop_here(asked)
    # A finished run is read without the lock, since its workdir may not be writable.
    if processes.broadcast_first((workdir / SUMMARY).exists()):
        claim_workdir(config, workdir, run.data.record())
        if finished := read_summary(workdir, run.task.headline):
            digests = finished.pop(EXPORTS, None)
            if processes.is_primary():
                _warn_of_replaced(workdir, digests)
            print_line(f"{config.name}: finished already, see {workdir / REPORT}")
            return {"headline": run.task.headline, **finished}
    with disk_faults_named(workdir), locked(workdir):
        first_values = claim_workdir(config, workdir, run.data.record())
        with moving_named(workdir):
            return _train(run, first_values, workdir, asked)


def _warn_of_replaced(workdir: pathlib.Path, digests: Any) -> None:
    """Logs a warning for each export that is not the file which the run wrote.

    ``digests`` come from the summary; those of earlier versions have none.
    """
    for name in (MODEL_FILE, EMA_FILE):
        digest = digests.get(name) if isinstance(digests, Mapping) else None
        if digest and file_digest(workdir / name) != digest:
            LOG.warning(
                "%s: found a file that this run did not write; the scores in the "
                "report are not its scores",
                workdir / name,
            )


def _train(
    run: Run, first_values: Mapping[str, Any], workdir: pathlib.Path, asked: Asked
) -> dict[str, Any]:
    """Trains a run in its locked workdir.

    ``first_values`` holds, for fields that have changed, their values when the run
    began.
    """
    config = first_config = run.config
    # The teacher was trained before any field of the run changed.
    if (rate := first_values.get("optimizer.learning_rate")) is not None:
        optimizer = config.optimizer.replace(learning_rate=rate)
        first_config = config.replace(optimizer=optimizer)
    check_start(run, workdir)  # before a teacher is trained, which may take hours
    unfrozen_teacher = None
    if run.teacher is not None:
        unfrozen_teacher = functools.partial(
            get_teacher, first_config, run.teacher, workdir, freeze=False
        )
        teacher = get_teacher(first_config, run.teacher, workdir, asked)
        check_teacher(run, teacher)
        record_teacher(workdir, teacher.meta["checksum"])
        run = run._replace(teacher=teacher)
    text = summary.describe_run(run)
    print_line(text)
    teacher_scores = _score_teacher(run, config.teacher.min_score, asked)
    try:
        start = lambda state: with_initial_weights(run, state, unfrozen_teacher)
        fitted = fit(run, workdir, start=start, asked=asked)
    except NotFinite as error:
        record_divergence(workdir, error.step, str(error))
        raise
    stop_here(asked)
    headline, history = run.task.headline, fitted.history
    result = {
        "name": config.name,
        "method": config.method,
        "headline": headline,
        "seed": config.seed,
        "steps": int(fitted.state.step),
        **{f"final_{k}": v for k, v in history[-1].items()},
        f"best_{headline}": max(history, key=run.task.goodness)[headline],
        **{f"teacher_{k}": v for k, v in teacher_scores.items()},
        "images_per_second": fitted.images_per_second,
    }
    names = export(run, fitted, workdir)
    if processes.is_primary():  # before the report, which may fail
        digests = {name: file_digest(workdir / name) for name in names}
        write_json(workdir / SUMMARY, {**result, EXPORTS: digests})
    stop_here(asked)
    with noting():
        trajectories = _for_figures("denoising", trace_denoising, run, fitted.state)
        arguments = (run, fitted.state, bool(teacher_scores))
        examples = _for_figures("examples", predict_examples, *arguments)
        stop_here(asked)
        if processes.is_primary():
            if examples:
                save_examples(workdir, examples)
            report.write_run(
                workdir,
                result,
                summary_text=text,
                trajectories=trajectories,
                draw=functools.partial(
                    report.draw_task_figures,
                    run.task,
                    run.data.meta,
                    fitted.evidence,
                    examples,
                ),
            )
    processes.wait_for_all("the run is written")
    print_line(
        f"{config.name} ({config.method}): {headline} "
        f"{result[f'final_{headline}']:.4f}, report in {workdir / REPORT}"
    )
    return result


def get_teacher(
    config: Config,
    expected: Model,
    workdir: pathlib.Path,
    asked: Asked = never,
    *,
    freeze: bool = True,
) -> Model:
    """Loads the teacher from ``teacher.init``, or trains it first.

    Args:
      config: the resolved config of the run.
      expected: the untrained teacher of the run.
      workdir: directory of the run.
      asked: whether to stop.
      freeze: False for the variables as they are in the file, with batch norms.

    Returns:
      The teacher with its variables.
    """
    weights = config.teacher.weights
    check_source(config)
    if config.teacher.init:
        return load_teacher(config.teacher.init, expected, weights, freeze=freeze)
    directory = directory_of(config, workdir)
    with teacher_fields_named(config):
        train(teacher_config(config), directory, asked)
    return load_teacher(directory, expected, weights, freeze=freeze)


def _score_teacher(
    run: Run, worst: float | None, asked: Asked = never
) -> dict[str, float]:
    """Returns the teacher's scores, or {} if its classes are not those of the data.

    Raises ValueError if the headline is worse than ``worst``, unless that is None.
    """
    if run.teacher is None:
        return {}
    task = run.task
    expected = run.data.meta["num_classes"]
    num_classes = run.teacher.meta["num_classes"]
    if num_classes != expected:
        if worst is not None:
            raise ValueError(
                f"teacher.min_score: found {worst} for a teacher of {num_classes} "
                f"classes on data of {expected}, expected none: it cannot be checked"
            )
        print_line(
            f"teacher  {num_classes} classes, the data {expected}: not evaluated"
        )
        return {}
    values, _ = run.evaluate(run.teacher, run.teacher_variables, asked=asked)
    print_values("teacher", values)
    accepted = {} if worst is None else {task.headline: worst}
    if task.goodness(values) < task.goodness(accepted):
        raise ValueError(
            f"teacher.min_score: found a teacher of {values[task.headline]:.4f}, "
            f"expected {worst} or better; check data.mean, data.std, the image "
            "size and the order of the classes"
        )
    return values


def export(run: Run, fitted: Fitted, workdir: pathlib.Path) -> list[str]:
    """Writes the student and, if there is one, its moving average to the workdir.

    Args:
      run: the run.
      fitted: the result of its training.
      workdir: directory of the run.

    Returns:
      The names of the files.

    Raises:
      ValueError: numbers are not finite.
    """
    state = fitted.state
    exports = {MODEL_FILE: sharding.gather_arrays(student_variables(state))}
    if state.ema:
        exports[EMA_FILE] = sharding.gather_arrays(ema_variables(state))
    for name, trained in exports.items():
        check_finite(workdir / name, trained)
    if processes.is_primary():
        for name, trained in exports.items():
            export_model(workdir / name, run.student._replace(variables=trained))
    return list(exports)


def _for_figures(
    name: str, compute: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """Computes what is drawn; returns {} if that fails.

    Several processes compute together, so there an error ends all of them.
    """
    if jax.process_count() > 1:
        return compute(*arguments)
    return attempt(name, compute, *arguments) or {}
