"""Runs the commands: train (the teacher first), compare, evaluate, predict, dry run."""

import functools
import logging
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax

from ..config.finished_run import as_trained
from ..config.resolve import resolve
from ..config.sections import Config
from ..data import stand_in
from ..io.best_effort import attempt, noting
from ..io.drawing import draw_files
from ..models.inputs import check_input, input_of
from ..models.model import Model
from ..tasks import Evidence
from ..weights.checks import check_finite, expand
from ..weights.files import export_model, load_model
from ..weights.output_files import EMA_FILE, MODEL_FILE, file_digest
from ..weights.paths import model_file
from ..weights.untrained import is_classifier
from .build import Run, build, build_scoring, check_teacher, student_variables
from .check import check_comparison, check_run
from .cluster import processes, sharding
from .cluster.signals import Asked, never, stop_here
from .components import make_method
from .finite import NotFinite
from .fit import Fitted, ema_variables, fit
from .initial_state import check_start, starting
from .memory import check_memory
from .outputs import report, summary
from .outputs.examples import save_examples, shown
from .outputs.metrics import print_line, print_values
from .outputs.predictions import write_predictions
from .teacher import (
    check_source,
    directory_of,
    load_teacher,
    teacher_config,
    teacher_fields_named,
)
from .workdir.directory import (
    REPORT,
    SUMMARY,
    has_checkpoints,
    locked,
    read_summary,
    refuse_single_run,
    write_json,
)
from .workdir.disk_errors import disk_faults_named, moving_named
from .workdir.identity import claim_workdir, record_divergence, record_teacher

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
    if processes.as_first((workdir / SUMMARY).exists()):
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
            return _train(config, first_values, workdir, run, asked)


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
    config: Config, first_values: Mapping, workdir: pathlib.Path, run: Run, asked: Asked
) -> dict[str, Any]:
    """Trains a run in its locked workdir.

    ``first_values`` holds, for fields that have changed, their values when the run
    began.
    """
    unfrozen_teacher, first_config = None, config
    # The teacher was trained before any field of the run changed.
    if (rate := first_values.get("optimizer.learning_rate")) is not None:
        optimizer = config.optimizer.replace(learning_rate=rate)
        first_config = config.replace(optimizer=optimizer)
    if run.teacher is not None:
        unfrozen_teacher = functools.partial(
            get_teacher, first_config, run.teacher, workdir, freeze=False
        )
    sharding.check_batch(run.plan.batch_size, config.train.norm_group_size, run.mesh)
    check_memory(run)
    # Checked before a teacher is trained, which may take hours.
    initialise = starting(
        config.student, run, unfrozen_teacher, config.optimizer.frozen
    )
    if not processes.as_first(has_checkpoints(workdir)):  # otherwise the run resumes
        check_start(config.student, run)
    if run.teacher is not None:
        teacher = get_teacher(first_config, run.teacher, workdir, asked)
        check_teacher(run.task, run.data, teacher, run.compared)
        record_teacher(workdir, teacher.meta["checksum"])
        run = run._replace(teacher=teacher)
    text = summary.describe_run(run)
    print_line(text)
    teacher_scores = _score_teacher(run, config.teacher.min_score, asked)
    try:
        fitted = fit(run, workdir, start=initialise, asked=asked)
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
        trajectories = _for_figures("denoising", report.denoising, run, fitted.state)
        arguments = (run, fitted.state, bool(teacher_scores))
        examples = _for_figures("examples", shown, *arguments)
        stop_here(asked)
        if processes.is_primary():
            if examples:
                save_examples(workdir, examples)
            report.write_run(
                workdir,
                result,
                summary_text=text,
                trajectories=trajectories,
                draw=functools.partial(figures_of, run, fitted.evidence, examples),
            )
    processes.wait_for_all("the run is written")
    print_line(
        f"{config.name} ({config.method}): {headline} "
        f"{result[f'final_{headline}']:.4f}, report in {workdir / REPORT}"
    )
    return result


def _for_figures(name: str, compute: Callable[..., dict], *arguments: Any) -> dict:
    """Computes what is drawn; returns {} if that fails.

    Several processes compute together, so there an error ends all of them.
    """
    if jax.process_count() > 1:
        return compute(*arguments)
    return attempt(name, compute, *arguments) or {}


def figures_of(
    run: Run, evidence: Evidence | None, examples: Mapping, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draws the task's figures of evidence and of examples.

    Args:
      run: the run.
      evidence: evidence of the last evaluation; None to draw nothing of it.
      examples: examples with predictions; empty to draw none.
      folder: directory of the figures.

    Returns:
      The files written.
    """
    task, meta, files = run.task, run.data.meta, []
    if evidence is not None and task.draw is not None:
        files += draw_files("draw of the task", task.draw, folder, evidence, meta)
    if examples and task.show is not None:
        files += draw_files("show of the task", task.show, folder, examples, meta)
    return files


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
    exports = {MODEL_FILE: sharding.gathered(student_variables(state))}
    if state.ema:
        exports[EMA_FILE] = sharding.gathered(ema_variables(state))
    for name, trained in exports.items():
        check_finite(workdir / name, trained)
    if processes.is_primary():
        for name, trained in exports.items():
            export_model(workdir / name, run.student._replace(variables=trained))
    return list(exports)


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


def compare(
    config: Any, workdir: pathlib.Path, asked: Asked = never
) -> list[dict[str, Any]]:
    """Trains each method of ``config.compare`` and writes a comparison.

    Entries of ``weights`` and ``evaluations`` apply to the methods that have them. Each
    run has its own directory ``<workdir>/<method>``. The teacher is trained once, in
    ``<workdir>/teacher``, unless ``teacher.init`` names one. Finished runs are kept.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the comparison, created if needed.
      asked: whether to stop.

    Returns:
      The summaries of the runs, in the order of ``config.compare``.

    Raises:
      ValueError: a config cannot run, a workdir belongs to another run, or a number is
        not finite.
    """
    refuse_single_run(workdir)
    config = resolve(config)
    shared = config.teacher.workdir or str(workdir / "teacher")
    config = config.replace(teacher=config.teacher.replace(workdir=shared))
    runs, results = of_methods(config), []
    check_comparison(runs, workdir)  # all of them, before the first one takes hours
    for method, run_config in runs.items():
        try:
            results.append(train(run_config, workdir / method, asked))
        except NotFinite as error:
            raise ValueError(
                f"{method}: {error}; all methods of a comparison have one config: for "
                "another rate choose another --workdir"
            ) from error
    if processes.is_primary():
        with disk_faults_named(workdir):
            show = lambda folder, examples: (
                figures_of(build(run_config), None, examples, folder)
                if examples
                else []
            )
            print_line(report.write_comparison(workdir, results, show))
    return results


def of_methods(config: Config) -> dict[str, Config]:
    """Returns the config of each method that ``config.compare`` names.

    Args:
      config: a resolved config.

    Returns:
      Configs by method. A weight that belongs to no method is logged and dropped.
    """
    runs, unused = {}, set(config.weights)
    for method in config.compare:
        run_config = config.replace(method=method, compare=())
        taps = make_method(run_config).taps
        weights = {
            name: weight
            for name, weight in config.weights.items()
            if name.partition("/")[0] in {"task", *taps}
        }
        evaluations = config.evaluations if taps else {}
        runs[method] = run_config.replace(weights=weights, evaluations=evaluations)
        unused -= set(weights)
    if unused:
        LOG.warning(
            "weights: %s: found in no method of %s, left out",
            *(sorted(unused), config.compare),
        )
    return runs


def use_student(
    config: Any,
    workdir: pathlib.Path,
    asked: Asked = never,
    *,
    fields_set: Collection[str] | None = None,
) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing.

    With ``config.mode`` "predict" it writes the student's predictions instead. Data,
    task and student are those of the run, except for fields that the caller sets.

    Args:
      config: a config as recipes make it.
      workdir: directory of a finished run.
      asked: whether to stop.
      fields_set: see :func:`diffkd_jax.config.finished_run.as_trained`.

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
        {**input_of(data.meta, data.eval_shape[-1]), "input_shape": data.eval_shape},
        lambda: is_classifier(model),
    )
    if task.check is not None:
        task.check(f"workdir: {workdir}", model.meta, data.meta)
    variables = jax.device_put(model.variables, scoring.place(model.variables))
    if run_config.mode == "predict":
        folder = expand(run_config.predictions or workdir / "predictions")
        write_predictions(scoring, model, variables, run_config.data, folder, asked)
        print_line(f"{run_config.name}: predictions in {folder}")
        return {}
    values, _ = scoring.evaluate(model, variables, asked=asked)
    print_values("student", values)
    return values


def _without_training_split(config: Config) -> Config:
    """Returns a config that needs no training split, which may be missing."""
    data = config.data.replace(keep_empty=True)
    if data.eval_split != "holdout":
        data = data.replace(train_split=data.eval_split)
    if data.canvas:  # every image of the evaluation fits on it
        data = data.replace(train_size=data.canvas, train_resize=())
    return config.replace(data=data)


def dry_run(config: Any) -> str:
    """Prints and returns the tables of taps and sizes; uses no workdir.

    Data are not needed unless ``data.path`` is set: without them, sizes and classes are
    those that the config states.

    Args:
      config: a config as recipes make it, or a resolved one.

    Returns:
      The printed text.

    Raises:
      FileNotFoundError: ``data.path`` is set and data are missing.
    """
    config = resolve(config)
    runs = of_methods(config) if config.compare else {config.method: config}
    texts, data = [], None
    for run_config in runs.values():
        try:
            run = build(run_config, data)
        except FileNotFoundError as error:
            if config.data.path:  # the user's path is wrong
                raise
            LOG.warning("the data are not looked at: %s", error)
            run = build(run_config, stand_in(config.data))
        check_run(run_config, run)
        texts.append(summary.describe_run(run))
        data = run.data
    text = "\n\n".join(texts)
    print_line(text)
    return text
