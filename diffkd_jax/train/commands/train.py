"""Runs the command that trains a student, and its teacher first.

:func:`train` decides whether the workdir may be used, ``_train`` trains in it.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from ...config.resolve import resolve
from ...config.sections import Config
from ...models.model import Model
from ..build import build, build_scoring
from ..check import check_teacher
from ..cluster import processes
from ..cluster.signals import ShouldStop, never, stop_if_requested
from ..finite import NotFinite
from ..fit import fit
from ..initial_state import with_initial_weights
from ..outputs import summary
from ..outputs.metrics import print_line, print_values
from ..outputs.results import EXPORTS, warn_of_replaced_exports, write_results
from ..preflight import check_start
from ..run import Run
from ..teacher import (
    check_teacher_fields,
    load_teacher,
    prefix_teacher_fields,
    teacher_config,
    teacher_directory,
    undistilled_config,
)
from ..workdir.claim import claim_workdir
from ..workdir.directory import (
    REPORT,
    SUMMARY,
    read_summary,
)
from ..workdir.disk_errors import report_disk_faults, report_moved_workdir
from ..workdir.identity import record_divergence, record_teacher
from ..workdir.lock import lock_workdir
from .compile_ahead import compile_ahead
from .random_teacher import draw_random_teacher


def train(
    config: Any,
    workdir: pathlib.Path,
    should_stop: ShouldStop = never,
    *,
    undistilled: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Trains ``config.student`` by ``config.method``; resumes an unfinished run.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the run, created if needed.
      should_stop: returns the number of the signal to stop for, or 0.
      undistilled: workdir of a finished run of the same student without distillation,
        for a method whose teacher is this student. None to train it first, in the
        folder ``teacher`` of the workdir.

    Returns:
      The content of ``summary.json``: method, final and best scores, and so on. The
      digests of the exported files are left out.

    Raises:
      ValueError: the config or the data are wrong, the workdir belongs to another
        config, or a number is not finite.
      FileNotFoundError: the data or the teacher are missing.
      Stopped: a stop was requested; the same call resumes the run.
    """
    config = resolve(config)
    # A finished run is read without the lock, since its workdir may not be writable.
    if processes.broadcast_first((workdir / SUMMARY).exists()):
        scoring = build_scoring(config)  # in a fraction of the time of a whole run
        claim_workdir(config, workdir, scoring.data.record())
        headline = scoring.task.headline
        if finished := read_summary(workdir, headline):
            digests = finished.pop(EXPORTS, None)
            if processes.is_primary():
                warn_of_replaced_exports(workdir, digests)
            print_line(f"{config.name}: finished already, see {workdir / REPORT}")
            return {"headline": headline, **finished}
    run = build(config)
    stop_if_requested(should_stop)
    with report_disk_faults(workdir), lock_workdir(workdir):
        first_values = claim_workdir(config, workdir, run.data.record())
        with report_moved_workdir(workdir):
            return _train(run, first_values, workdir, should_stop, undistilled)


def _train(
    run: Run,
    first_values: Mapping[str, Any],
    workdir: pathlib.Path,
    should_stop: ShouldStop,
    undistilled: pathlib.Path | None,
) -> dict[str, Any]:
    """Trains a run, and its teacher first, in the run's locked workdir.

    ``first_values`` are the values that changed fields had when the run began.
    """
    config = run.config
    run_at_start = run
    # The teacher was trained before any field of the run changed.
    if (rate := first_values.get("optimizer.learning_rate")) is not None:
        optimizer = config.optimizer.replace(learning_rate=rate)
        run_at_start = run._replace(config=config.replace(optimizer=optimizer))
    check_start(run, workdir)  # before a teacher is trained, which may take hours
    unfrozen_teacher = None
    if run.teacher is not None:
        unfrozen_teacher = functools.partial(
            get_teacher, run_at_start.config, run.teacher, workdir, freeze=False
        )
        teacher = _teacher_of(run_at_start, workdir, should_stop, undistilled)
        check_teacher(run, teacher)
        record_teacher(workdir, teacher.meta["checksum"])
        run = run._replace(teacher=teacher)
    # The process cannot end before the compiler does, so a teacher is refused first.
    if config.teacher.min_score is None:
        run = compile_ahead(run)
    run_text = summary.describe_run(run)
    print_line(run_text)
    teacher_scores = _score_teacher(run, config.teacher.min_score, should_stop)
    initialise = lambda state: with_initial_weights(run, state, unfrozen_teacher)
    try:
        fitted = fit(run, workdir, initialise=initialise, should_stop=should_stop)
    except NotFinite as error:
        record_divergence(workdir, error.step, str(error))
        raise
    stop_if_requested(should_stop)
    result = write_results(run, fitted, teacher_scores, run_text, workdir, should_stop)
    headline = run.task.headline
    print_line(
        f"{config.name} ({config.method}): {headline} "
        f"{result[f'final_{headline}']:.4f}, report in {workdir / REPORT}"
    )
    return result


def _teacher_of(
    run: Run,
    workdir: pathlib.Path,
    should_stop: ShouldStop,
    undistilled: pathlib.Path | None,
) -> Model:
    """Returns the teacher of a run, from the source that its method asks for."""
    expected, config = run.teacher, run.config
    assert expected is not None  # for mypy
    if run.method.teacher == "config":
        return get_teacher(config, expected, workdir, should_stop)
    if run.method.teacher == "random":
        return draw_random_teacher(run, should_stop)
    if undistilled is None:
        undistilled = workdir / "teacher"
        train(undistilled_config(config), undistilled, should_stop)
    return load_teacher(undistilled, expected)


def get_teacher(
    config: Config,
    expected: Model,
    workdir: pathlib.Path,
    should_stop: ShouldStop = never,
    *,
    freeze: bool = True,
) -> Model:
    """Loads the teacher from ``teacher.init``, or trains it first.

    Args:
      config: the resolved config of the run.
      expected: the untrained teacher of the run.
      workdir: directory of the run.
      should_stop: returns the number of the signal to stop for, or 0.
      freeze: whether to fold the batch norms. False leaves the variables as they are
        in the file.

    Returns:
      The teacher with its variables.

    Raises:
      ValueError: the config names no teacher and trains none, or the teacher does not
        fit or cannot be trained.
      FileNotFoundError: there is no such file.
      Stopped: a stop was requested while the teacher was trained.
    """
    weights = config.teacher.weights
    check_teacher_fields(config)
    if config.teacher.init:
        return load_teacher(config.teacher.init, expected, weights, freeze=freeze)
    directory = train_teacher(config, workdir, should_stop)
    return load_teacher(directory, expected, weights, freeze=freeze)


def train_teacher(
    config: Config, workdir: pathlib.Path, should_stop: ShouldStop
) -> pathlib.Path:
    """Trains the teacher of a run, unless it is finished.

    Args:
      config: the resolved config of the run.
      workdir: directory of the run.
      should_stop: returns the number of the signal to stop for, or 0.

    Returns:
      The directory of the teacher.

    Raises:
      ValueError: the teacher cannot be trained.
      Stopped: a stop was requested.
    """
    directory = teacher_directory(config, workdir)
    with prefix_teacher_fields(config):
        train(teacher_config(config), directory, should_stop)
    return directory


def _score_teacher(
    run: Run, worst: float | None, should_stop: ShouldStop = never
) -> dict[str, float]:
    """Returns the teacher's scores, or {} if it cannot be scored on the data.

    It cannot be scored if it has another number of classes than the data.
    Raises ValueError if the headline is worse than ``worst``, the worst score that is
    accepted. None accepts any score.
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
    values, _ = run.evaluate(
        run.teacher, run.teacher_variables, should_stop=should_stop
    )
    print_values("teacher", values)
    accepted = {} if worst is None else {task.headline: worst}
    if task.goodness(values) < task.goodness(accepted):
        raise ValueError(
            f"teacher.min_score: found a teacher of {values[task.headline]:.4f}, "
            f"expected {worst} or better; check data.mean, data.std, the image "
            "size and the order of the classes"
        )
    return values
