"""The commands: train (the teacher first), compare, evaluate, describe."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ..attempts import attempt, noting
from ..config import renamed
from ..figures import draw_files
from ..models.checks import check_finite, expand
from ..models.contract import Model
from ..models.files import (
    EMA_FILE,
    MODEL_FILE,
    export_model,
    load_model,
)
from . import processes, report, sharding, summary
from .build import Run, build, check_teacher, student_variables
from .choose import make_method
from .disk import disk_faults_named, moving_named
from .examples import save_examples, shown
from .finite import NotFinite
from .fit import Fitted, ema_variables, fit
from .metrics import print_line, print_values
from .predict import write_predictions
from .record import claim_workdir, record_divergence, record_teacher
from .start import starting
from .stop import Asked, never, stop_here
from .teacher import load_teacher
from .workdir import REPORT, SUMMARY, locked, read_summary, write_json

# Sections of the teacher, of which what is set takes the place of the student's.
OWN_RECIPE = ("train", "schedule", "optimizer", "mix", "data")


def train(config, workdir: pathlib.Path, asked: Asked = never) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes what is unfinished.

    Args:
      config: see :mod:`diffkd_jax.config`.
      workdir: directory of the run, created if needed.
      asked: whether to stop, see :mod:`diffkd_jax.train.stop`.

    Returns:
      The content of ``summary.json``: method, final and best scores, and so on.

    Raises:
      ValueError: bad config or data, a workdir of another config, or a number that is
        not finite.
      FileNotFoundError: missing data or teacher.
      Stopped: it was asked for; the same call goes on.
    """
    config = renamed(config)
    run = build(config)
    stop_here(asked)
    if processes.as_first(
        (workdir / SUMMARY).exists()
    ):  # which may be somebody else's, to be read alone
        claim_workdir(config, workdir, run.data.record())
        if finished := read_summary(workdir, run.task.headline):
            print_line(f"{config.name}: finished already, see {workdir / REPORT}")
            return {"headline": run.task.headline, **finished}
    with disk_faults_named(workdir), locked(workdir):
        began = claim_workdir(config, workdir, run.data.record())
        with moving_named(workdir):
            return _train(config, began, workdir, run, asked)


def _train(
    config, began: Mapping, workdir: pathlib.Path, run: Run, asked: Asked
) -> dict[str, Any]:
    as_in_file, of_teacher = None, config.copy_and_resolve_references()
    # The teacher was trained before anything changed.
    rates = {k: v for k, v in began.items() if k.startswith("optimizer.")}
    of_teacher.update_from_flattened_dict(rates)
    if run.teacher is not None:
        as_in_file = functools.partial(
            get_teacher, of_teacher, run.teacher, workdir, freeze=False
        )
    sharding.check_batch(run.plan.batch_size, config.train.norm_group_size, run.mesh)
    # Before a teacher is trained.
    begin = starting(config.student, run, as_in_file, config.optimizer.frozen)
    if run.teacher is not None:
        teacher = get_teacher(of_teacher, run.teacher, workdir, asked)
        check_teacher(run.task, run.data, teacher, run.compared)
        record_teacher(workdir, teacher.meta["checksum"])
        run = run._replace(teacher=teacher)
    text = summary.describe(run)
    print_line(text)
    teacher_scores = score_teacher(run, config.teacher.min_score, asked)
    try:
        fitted = fit(run, workdir, start=begin, asked=asked)
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
    export(run, fitted, workdir)
    if processes.is_primary():  # before all that is for the report alone
        write_json(workdir / SUMMARY, result)
    stop_here(asked)
    with noting():
        trajectories = _for_figures("denoising", report.denoising, run, fitted.state)
        given = (run, fitted.state, bool(teacher_scores))
        examples = _for_figures("examples", shown, *given)
        stop_here(asked)
        if processes.is_primary():
            if examples:
                save_examples(workdir, examples)
            report.write_run(
                workdir,
                result,
                summary_text=text,
                trajectories=trajectories,
                draw=functools.partial(figures_of, run, fitted.seen, examples),
            )
    processes.wait_for_all("the run is written")
    print_line(
        f"{config.name} ({config.method}): {headline} "
        f"{result[f'final_{headline}']:.4f}, report in {workdir / REPORT}"
    )
    return result


def _for_figures(name: str, compute: Callable[..., dict], *arguments: Any) -> dict:
    """Computes what is drawn, {} where that fails.

    Several processes compute together, so an error ends them all.
    """
    if jax.process_count() > 1:
        return compute(*arguments)
    return attempt(name, compute, *arguments) or {}


def figures_of(
    run: Run, seen: Any, examples: Mapping, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draws figures of the task, of evidence and of examples, where there are any."""
    task, meta, files = run.task, run.data.meta, []
    if seen is not None and task.draw is not None:
        files += draw_files("draw of the task", task.draw, folder, seen, meta)
    if examples and task.show is not None:
        files += draw_files("show of the task", task.show, folder, examples, meta)
    return files


def export(run: Run, fitted: Fitted, workdir: pathlib.Path) -> None:
    """Writes the student, and its average where there is one.

    Raises:
      ValueError: numbers that are not finite.
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


def get_teacher(
    config,
    expected: Model,
    workdir: pathlib.Path,
    asked: Asked = never,
    *,
    freeze: bool = True,
) -> Model:
    """Loads the teacher from ``teacher.init``, or trains it once in the workdir."""
    weights = config.teacher.weights
    if weights not in ("", "ema"):
        raise ValueError(f"teacher.weights: found {weights!r}, expected '' or 'ema'")
    if config.teacher.init:
        return load_teacher(config.teacher.init, expected, weights, freeze=freeze)
    if not config.teacher.epochs:
        raise ValueError(
            "teacher.init: found '', expected an exported student, or the workdir of a "
            "finished run, or teacher.epochs > 0 to train one"
        )
    own = teacher_config(config)
    if weights and not own.train.ema_decay:
        raise ValueError(
            "teacher.weights: found 'ema' for a teacher that is trained here, expected "
            "'', or a train.ema_decay above 0"
        )
    directory = expand(config.teacher.workdir or workdir / "teacher")
    train(own, directory, asked)
    return load_teacher(directory, expected, weights, freeze=freeze)


def teacher_config(config) -> Any:
    """The config that trains ``config.teacher`` as an undistilled student.

    What its own sections set takes the place of the student's recipe.
    """
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.name = f"{config.name}-teacher"
        for field in ("model", "options", "dtype"):
            own.student[field] = own.teacher[field]
        own.student.init, own.student.init_into = "", ""
        own.student.init_leave_out, own.student.inherit = (), ()
        own.optimizer.frozen = ()
        for section in OWN_RECIPE:
            for field, value in config.teacher[section].items():
                if value is not None:
                    own[section][field] = value
                own.teacher[section][field] = None
        own.train.epochs = config.teacher.epochs
        # What the teacher does not depend on must not keep runs from sharing it.
        undistilled(own)
        own.compare, own.teacher.workdir, own.teacher.weights = (), "", ""
        own.teacher.min_score, own.teacher.min_top1 = None, 0.0
    return own


def undistilled(config) -> None:
    """Makes a config one without a method, and all that goes with one; in place."""
    config.method = "none"
    for section in ("methods", "method_options", "weights", "evaluations"):
        config[section] = {}
    config.train.distill_every = 1


def score_teacher(
    run: Run, worst: float | None, asked: Asked = never
) -> dict[str, float]:
    """Scores of the teacher before any training, if its classes are the data's.

    Args:
      run: with a loaded teacher, or none.
      worst: the worst headline score that is accepted, None for any.
      asked: whether to stop.

    Raises:
      ValueError: it is worse.
    """
    if run.teacher is None:
        return {}
    task = run.task
    expected, own = run.data.meta["num_classes"], run.teacher.meta["num_classes"]
    if own != expected:
        if worst is not None:
            raise ValueError(
                f"teacher.min_score: found {worst} for a teacher of {own} classes on "
                f"data of {expected}, expected none: it cannot be checked"
            )
        print_line(f"teacher  {own} classes, the data {expected}: not evaluated")
        return {}
    values, _ = run.evaluate(run.teacher, run.teacher_variables, asked=asked)
    print_values("teacher", values)
    wanted = {} if worst is None else {task.headline: worst}
    if task.goodness(values) < task.goodness(wanted):
        raise ValueError(
            f"teacher.min_score: found a teacher of {values[task.headline]:.4f}, "
            f"expected {worst} or better; check data.mean, data.std, the picture "
            "size and the order of the classes"
        )
    return values


def compare(
    config, workdir: pathlib.Path, asked: Asked = never
) -> list[dict[str, Any]]:
    """Trains each method of ``config.compare`` and writes a comparison.

    What ``weights`` and ``evaluations`` say counts for the methods that have it. Each
    run has its own directory ``<workdir>/<method>``; the teacher is trained once, in
    ``<workdir>/teacher``, unless ``teacher.init`` names one. Finished runs are kept.

    Returns:
      The summaries of the runs, in the order of ``config.compare``.
    """
    runs, results = of_methods(config), []
    for own in runs.values():
        with own.unlocked():
            own.teacher.workdir = config.teacher.workdir or str(workdir / "teacher")
    data = None
    for own in runs.values():  # all of them, before the first one takes hours
        data = build(own, data).data
    for method, own in runs.items():
        try:
            results.append(train(own, workdir / method, asked))
        except NotFinite as error:
            raise ValueError(
                f"{method}: {error}; all methods of a comparison have one config: for "
                "another rate choose another --workdir"
            ) from error
    if processes.is_primary():
        with disk_faults_named(workdir):
            show = lambda folder, examples: (
                figures_of(build(own), None, examples, folder) if examples else []
            )
            print_line(report.write_comparison(workdir, results, show))
    return results


def of_methods(config) -> dict[str, Any]:
    """The config of each method that ``config.compare`` names."""
    runs = {}
    for method in config.compare:
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.method, own.compare = method, ()
            taps = make_method(own).taps
            if not taps:
                own.evaluations = {}
            for name in list(own.weights):
                if name.partition("/")[0] not in {"task", *taps}:
                    del own.weights[name]
        runs[method] = own
    return runs


def use_student(
    config, workdir: pathlib.Path, asked: Asked = never
) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing.

    With ``config.mode`` "predict" it writes what the student predicts instead.
    """
    own = config.copy_and_resolve_references()
    with own.unlocked():
        undistilled(own)
        to_evaluate_alone(own)
    run = build(own)
    model = load_model(workdir, config.student.model)
    check_finite(f"workdir: {workdir}", model.variables)
    if run.task.check is not None:
        run.task.check(f"workdir: {workdir}", model.meta, run.data.meta)
    variables = jax.device_put(model.variables, run.place(model.variables))
    if config.mode == "predict":
        folder = write_predictions(run, model, variables, own.data, workdir, asked)
        print_line(f"{config.name}: predictions in {folder}")
        return {}
    values, _ = run.evaluate(model, variables, asked=asked)
    print_values("student", values)
    return values


def to_evaluate_alone(config) -> None:
    """Makes a config ask nothing of a training split, which need not be there."""
    if config.data.eval_split != "holdout":
        config.data.train_split = config.data.eval_split
    config.data.batch_size, config.data.keep_empty, config.train.epochs = 1, True, 1.0
    if config.data.canvas:  # on which what is evaluated fits
        config.data.train_size, config.data.train_resize = config.data.canvas, ()


def dry_run(config) -> str:
    """Prints and returns the tables of taps and sizes; touches no workdir."""
    runs = of_methods(config) if config.compare else {config.method: config}
    texts, data = [], None
    for own in runs.values():
        run = checked(own, data)
        texts.append(summary.describe(run))
        data = run.data
    text = "\n\n".join(texts)
    print_line(text)
    return text


def checked(config, data: Any) -> Run:
    """The run of a config, if its teacher fits, as far as it is there already.

    Args:
      config: of one method.
      data: in place of what it names, None for that.
    """
    run = build(config, data)
    teacher = run.teacher
    get = None if teacher is None else lambda: teacher
    starting(config.student, run, get, config.optimizer.frozen)
    if teacher is not None and config.teacher.init:
        load_teacher(config.teacher.init, teacher, config.teacher.weights)
    return run
