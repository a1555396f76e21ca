"""What the command line can do: train, evaluate, describe."""

import pathlib
from typing import Any

import jax

from ..data.dataset import open_data
from ..models.checks import check_finite, expand
from ..models.files import (
    EMA_FILE,
    MODEL_FILE,
    export_model,
    load_model,
)
from . import report, setup, sharding, summary
from .disk import disk_faults_named
from .evaluate import make_evaluate
from .loop import Loop, ema_variables, student_variables
from .metrics import print_line, print_values
from .workdir import (
    REPORT,
    SUMMARY,
    claim_workdir,
    locked,
    read_summary,
    record_teacher,
    write_json,
)


def train(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes what is unfinished.

    Args:
      config: a resolved config, see ``diffkd_jax/config.py``.
      workdir: directory of the run, created if needed.

    Returns:
      The content of ``summary.json``: method, final and best scores, and so on.

    Raises:
      ValueError: bad config or data, a workdir of another config, or a loss that is
        not finite.
      FileNotFoundError: missing data or teacher.
    """
    data = open_data(config.data)
    task = setup.make_task(config, data)
    method = setup.selected_method(config)
    group = config.train.norm_group_size
    taps = setup.make_taps(method, group)
    student = setup.make_model(config.student, data, group)
    if (workdir / SUMMARY).exists():  # which may be somebody else's, to be read alone
        claim_workdir(config, workdir, data.record())
        if finished := read_summary(workdir, task.headline):
            print_line(f"{config.name}: finished already, see {workdir / REPORT}")
            return {"headline": task.headline, **finished}
    with disk_faults_named(workdir), locked(workdir):
        claim_workdir(config, workdir, data.record())
        return _train(config, workdir, data, task, method, taps, student)


def _train(config, workdir, data, task, method, taps, student) -> dict[str, Any]:
    mesh = sharding.make_mesh(config.num_devices)
    teacher = get_teacher(config, data, workdir) if taps else None
    if teacher:
        setup.check_classes(task, data, student, teacher, taps)
        record_teacher(workdir, teacher.meta["checksum"])
    text = summary.describe(
        data, student, teacher, taps, method.weights, config.data.batch_size
    )
    print_line(text)
    evaluate = make_evaluate(config, data, mesh, task)
    teacher_scores = check_teacher(config, data, task, teacher, evaluate)
    loop = Loop(
        config, workdir, data, task, mesh, student, teacher, taps, method, evaluate
    )
    state, history = loop.run()
    variables = jax.device_get(student_variables(state))
    result = {
        "name": config.name,
        "method": config.method,
        "headline": task.headline,
        "seed": config.seed,
        "steps": int(state.step),
        **{f"final_{k}": v for k, v in history[-1].items()},
        f"best_{task.headline}": max(history, key=task.goodness)[task.headline],
        **{f"teacher_{k}": v for k, v in teacher_scores.items()},
        "images_per_second": loop.images_per_second,
    }
    examples = loop.drawing_examples(state)
    if loop.seen is None:  # it was resumed after its last evaluation
        _, loop.seen = evaluate(loop.student_frozen, variables)
    exports = {MODEL_FILE: variables}
    if state.ema:
        exports[EMA_FILE] = jax.device_get(ema_variables(state))
    for name, trained in exports.items():
        check_finite(workdir / name, trained)
    if sharding.is_primary():
        for name, trained in exports.items():
            export_model(workdir / name, student._replace(variables=trained))
        report.write_run(
            workdir,
            result,
            summary_text=text,
            trajectories=examples,
            draw=lambda folder: draw(folder, task, loop.seen, data),
        )
        write_json(workdir / SUMMARY, result)
    sharding.wait_for_all("the run is written")
    print_line(
        f"{config.name} ({config.method}): {task.headline} "
        f"{result[f'final_{task.headline}']:.4f}, report in {workdir / REPORT}"
    )
    return result


def get_teacher(config, data, workdir: pathlib.Path) -> setup.Model:
    """Loads the teacher from ``teacher.init``, or trains it once in the workdir."""
    weights = config.teacher.weights
    if weights not in ("", "ema"):
        raise ValueError(f"teacher.weights: found {weights!r}, expected '' or 'ema'")
    if config.teacher.init:
        return setup.load_teacher(config, data, config.teacher.init)
    if not config.teacher.epochs:
        raise ValueError(
            "teacher.init: found '', expected an exported student, or the workdir of a "
            "finished run, or teacher.epochs > 0 to train one"
        )
    if weights and not config.train.ema_decay:
        raise ValueError(
            "teacher.weights: found 'ema' for a teacher that is trained here, expected "
            "'', or a train.ema_decay above 0"
        )
    directory = expand(config.teacher.workdir or workdir / "teacher")
    train(teacher_config(config), directory)
    return setup.load_teacher(config, data, directory)


def teacher_config(config) -> Any:
    """The config that trains ``config.teacher`` as an undistilled student."""
    own = config.copy_and_resolve_references()
    with own.unlocked():
        own.name, own.method = f"{config.name}-teacher", "none"
        fields = ("model", "options", "dtype")
        own.student = {field: own.teacher[field] for field in fields}
        own.train.epochs = config.teacher.epochs
        # What the teacher does not depend on must not keep runs from sharing it.
        own.methods = {"none": config.methods.none}
        own.compare, own.teacher.workdir, own.teacher.weights = (), "", ""
    return own


def draw(folder: pathlib.Path, task, seen, data) -> list[pathlib.Path]:
    """The figures of the task, if it has any."""
    return [] if task.draw is None else task.draw(folder, seen, data.meta)


def check_teacher(config, data, task, teacher, evaluate) -> dict[str, float]:
    """Evaluates the teacher before any training, if its classes are the data's.

    Raises:
      ValueError: it is worse than ``teacher.min_score``.
    """
    if teacher is None:
        return {}
    worst = config.teacher.min_score
    expected, own = data.meta["num_classes"], teacher.meta["num_classes"]
    if own != expected:
        if worst is not None:
            raise ValueError(
                f"teacher.min_score: found {worst} for a teacher of {own} classes on "
                f"data of {expected}, expected none: it cannot be checked"
            )
        print_line(f"teacher  {own} classes, the data {expected}: not evaluated")
        return {}
    values, _ = evaluate(setup.frozen_apply(teacher.module), teacher.variables)
    print_values("teacher", values)
    if worst is not None and not (
        task.goodness(values) >= task.goodness({task.headline: worst})
    ):
        raise ValueError(
            f"teacher.min_score: found a teacher of {values[task.headline]:.4f}, "
            f"expected {worst} or better; check data.mean, data.std, the picture "
            "size and the order of the classes"
        )
    return values


def evaluate_only(config, workdir: pathlib.Path) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing."""
    data = open_data(config.data)
    task = setup.make_task(config, data)
    module, variables, meta = load_model(workdir, config.student.model)
    check_finite(f"workdir: {workdir}", variables)
    if task.check is not None:
        task.check(f"workdir: {workdir}", meta, data.meta)
    mesh = sharding.make_mesh(config.num_devices)
    evaluate = make_evaluate(config, data, mesh, task)
    values, _ = evaluate(setup.frozen_apply(module), variables)
    print_values("student", values)
    return values


def dry_run(config) -> str:
    """Prints and returns the table of taps and sizes; touches no workdir."""
    data = open_data(config.data)
    task = setup.make_task(config, data)
    method = setup.selected_method(config)
    taps = setup.make_taps(method)
    student = setup.make_model(config.student, data)
    teacher = setup.make_model(config.teacher, data) if taps else None
    if teacher:
        setup.check_classes(task, data, student, teacher, taps)
    text = summary.describe(
        data,
        student,
        teacher,
        taps,
        method.weights,
        config.data.batch_size,
    )
    print_line(text)
    return text
