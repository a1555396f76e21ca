"""What the command line can do: train, evaluate, describe."""

import pathlib
from typing import Any

import jax

from ..models.checks import check_finite, expand
from ..models.files import (
    EMA_FILE,
    MODEL_FILE,
    export_model,
    load_model,
)
from . import checkpoint, classes, report, setup, sharding, summary
from .disk import disk_faults_named
from .evaluate import make_evaluator
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

MOST_CLASSES_DRAWN = 30


def train(config, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes what is unfinished.

    Args:
      config: a resolved config, see ``diffkd_jax/config.py``.
      workdir: directory of the run, created if needed.

    Returns:
      The content of ``summary.json``: method, final and best accuracy, and so on.

    Raises:
      ValueError: bad config or data, a workdir of another config, or a loss that is
        not finite.
      FileNotFoundError: missing data or teacher.
    """
    data = setup.open_data(config)
    method = setup.selected_method(config)
    group = config.train.norm_group_size
    taps = setup.make_taps(method, group)
    student = setup.make_model(config.student, data, group)
    known = (data.class_names, (data.train.size, data.evaluation.size))
    if (workdir / SUMMARY).exists():  # which may be somebody else's, to be read alone
        claim_workdir(config, workdir, *known)
        if finished := read_summary(workdir):
            print_line(f"{config.name}: finished already, see {workdir / REPORT}")
            return finished
    with disk_faults_named(workdir), locked(workdir):
        claim_workdir(config, workdir, *known)
        return _train(config, workdir, data, method, taps, student)


def _train(config, workdir, data, method, taps, student) -> dict[str, Any]:
    mesh = sharding.make_mesh(config.num_devices)
    teacher = get_teacher(config, data, workdir) if taps else None
    if teacher:
        classes.check_teacher(teacher.meta, data.class_names, taps)
        record_teacher(workdir, teacher.meta["checksum"])
    text = summary.describe(
        data, student, teacher, taps, method.weights, config.data.batch_size
    )
    print_line(text)
    evaluator = make_evaluator(config, data, mesh)
    evaluate = evaluator.metrics
    teacher_metrics = check_teacher(config, data, teacher, evaluate)
    loop = Loop(config, workdir, data, mesh, student, teacher, taps, method, evaluate)
    state, history = loop.run()
    variables = jax.device_get(student_variables(state))
    result = {
        "name": config.name,
        "method": config.method,
        "seed": config.seed,
        "steps": int(state.step),
        **{f"final_{k}": v for k, v in history[-1].items()},
        "best_top1": max(history, key=checkpoint.score)["top1"],
        **{f"teacher_{k}": v for k, v in teacher_metrics.items()},
        "images_per_second": loop.images_per_second,
    }
    examples = loop.drawing_examples(state)
    counts = None
    if len(data.class_names) <= MOST_CLASSES_DRAWN:
        counts = evaluator.confusion(student.module, variables)
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
            confusion=counts,
            class_names=data.class_names,
        )
        write_json(workdir / SUMMARY, result)
    sharding.wait_for_all("the run is written")
    print_line(
        f"{config.name} ({config.method}): top-1 {result['final_top1']:.4f}, report in "
        f"{workdir / REPORT}"
    )
    return result


def get_teacher(config, data: setup.Data, workdir: pathlib.Path) -> setup.Model:
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


def check_teacher(config, data, teacher, evaluate) -> dict[str, float]:
    """Evaluates the teacher before any training, if its classes are the data's.

    Raises:
      ValueError: it is below ``teacher.min_top1``.
    """
    if teacher is None:
        return {}
    expected, own = len(data.class_names), teacher.meta["num_classes"]
    if own != expected:
        if config.teacher.min_top1:
            raise ValueError(
                f"teacher.min_top1: found {config.teacher.min_top1} for a teacher of "
                f"{own} classes on data of {expected}, expected 0: it cannot be checked"
            )
        print_line(f"teacher  {own} classes, the data {expected}: not evaluated")
        return {}
    values = evaluate(teacher.module, teacher.variables)
    print_values("teacher", values)
    if values["top1"] < config.teacher.min_top1:
        raise ValueError(
            f"teacher.min_top1: found a teacher of {values['top1']:.4f}, expected at "
            f"least {config.teacher.min_top1}; check data.mean, data.std, the picture "
            "size and the order of the classes"
        )
    return values


def evaluate_only(config, workdir: pathlib.Path) -> dict[str, float]:
    """Evaluates the exported student of a workdir; trains and changes nothing."""
    data = setup.open_data(config)
    module, variables, meta = load_model(workdir, config.student.model)
    check_finite(f"workdir: {workdir}", variables)
    classes.check_student(f"workdir: {workdir}", meta, data.class_names)
    mesh = sharding.make_mesh(config.num_devices)
    values = make_evaluator(config, data, mesh).metrics(module, variables)
    print_values("student", values)
    return values


def dry_run(config) -> str:
    """Prints and returns the table of taps and sizes; touches no workdir."""
    data = setup.open_data(config)
    method = setup.selected_method(config)
    taps = setup.make_taps(method)
    teacher = setup.make_model(config.teacher, data) if taps else None
    if teacher:
        classes.check_teacher(teacher.meta, data.class_names, taps)
    text = summary.describe(
        data,
        setup.make_model(config.student, data),
        teacher,
        taps,
        method.weights,
        config.data.batch_size,
    )
    print_line(text)
    return text
