"""Runs the command that trains several methods and compares them."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...config.comparison import SECTIONS
from ...config.resolve import resolve
from ...config.sections import Config
from ..build import build_scoring
from ..cluster import processes
from ..cluster.signals import ShouldStop, never
from ..finite import NotFinite
from ..outputs.comparison import TeacherFacts, write_comparison
from ..outputs.comparison_rows import ComparedRun
from ..outputs.metrics import print_line
from ..outputs.report import draw_task_figures
from ..preflight import check_comparison, claim_runs
from ..run import Run
from ..workdir.directory import SUMMARY, read_json_object, refuse_single_run
from ..workdir.disk_errors import report_disk_faults
from ..workdir.lock import lock_workdir
from .planned_runs import PlannedRun, configs_by_row, length_factors, plan_runs
from .step_times import StepTime, measure_step, read_or_measure
from .train import train, train_teacher

Summary = dict[str, Any]


class Comparing(NamedTuple):
    """The parts of a comparison that stay the same while its runs are trained.

    Attributes:
      config: the resolved config, its ``teacher.workdir`` set.
      workdir: directory of the comparison.
      should_stop: returns the number of the signal to stop for, or 0.
      built: a built run of each row, by row; the first one is the reference.
      times: time of a step by row.
      at_length: the runs at the length of their configs.
    """

    config: Config
    workdir: pathlib.Path
    should_stop: ShouldStop
    built: Mapping[str, Run]
    times: Mapping[str, StepTime]
    at_length: list[PlannedRun]

    def source(self, row: str) -> str:
        """Returns where the teacher of a row comes from; "" without a teacher."""
        run = self.built[row]
        return "" if run.teacher is None else run.method.teacher

    def undistilled(self, seed: int) -> PlannedRun:
        """Returns the run of the row ``none`` at the length of its config."""
        return next(r for r in self.at_length if (r.row, r.seed) == ("none", seed))


def compare(
    config: Any,
    workdir: pathlib.Path,
    should_stop: ShouldStop = never,
    *,
    measure: Callable[[Run, Run], StepTime] | None = None,
) -> list[Summary]:
    """Trains each row of ``config.compare`` with each seed; compares the students.

    A row is a method, or a variant that ``comparison.variants`` describes. The runs of
    one seed have the same initial student, the same batches and the same
    augmentation. The first row is the reference. For equal time, the lengths of the
    other runs are scaled by the time of a step, which is measured at the start. An
    entry of ``weights`` applies to the methods that have such a loss, and
    ``evaluations`` to those that have a teacher.

    Each run has its own directory ``<workdir>/<row>``, with ``-seed<n>`` for another
    seed than that of the config, and ``-time`` for another length. The teacher is
    trained once for all runs, in ``<workdir>/teacher``, unless ``teacher.init`` names
    one. Finished runs are kept.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the comparison, created if needed.
      should_stop: returns the number of the signal to stop for, or 0.
      measure: ``(run, reference) -> time``, measures a step; None for
        :func:`diffkd_jax.train.commands.step_times.measure_step`.

    Returns:
      The summaries of the runs: for each budget and each seed, those of the rows in the
      order of ``config.compare``.

    Raises:
      ValueError: a config cannot run, a workdir belongs to another run, or a number is
        not finite.
      FileNotFoundError: the data or the teacher are missing.
      OSError: another comparison uses the workdir, or it cannot be written to.
      Stopped: a stop was requested; the same call resumes the comparison.
    """
    refuse_single_run(workdir)
    config = resolve(config)
    shared = config.teacher.workdir or str(workdir / "teacher")
    config = config.replace(teacher=config.teacher.replace(workdir=shared))
    by_row = configs_by_row(config)
    at_length = plan_runs(config, by_row, "steps", dict.fromkeys(by_row, 1.0))
    rows: dict[str, dict[str, Config]] = {}
    for run in at_length:
        rows.setdefault(run.row, {})[run.folder] = run.config
    # All of them are checked before the first one takes hours.
    recipe = {name: getattr(config, name) for name in SECTIONS}
    built = check_comparison(rows, workdir, config.comparison.variants, recipe)
    with lock_workdir(workdir):
        measure = measure or functools.partial(measure_step, should_stop=should_stop)
        times = read_or_measure(built, workdir, should_stop, measure)
        comparing = Comparing(config, workdir, should_stop, built, times, at_length)
        return _train_all(comparing, by_row)


def _train_all(comparing: Comparing, by_row: Mapping[str, Config]) -> list[Summary]:
    """Trains the runs of all budgets and seeds in a locked workdir; compares them.

    ``by_row`` are the configs of the rows.
    """
    config, workdir, built = comparing.config, comparing.workdir, comparing.built
    runs = list[PlannedRun]()
    for budget in config.comparison.budget:
        if budget == "time":
            taught = [name for name in built if comparing.source(name) == "student"]
            lengths = {name: run.plan.total_steps for name, run in built.items()}
            factors = length_factors(comparing.times, taught, lengths)
            runs += plan_runs(config, by_row, budget, factors)
        else:
            runs += comparing.at_length
    data = next(iter(built.values())).data
    claim_runs({run.folder: run.config for run in runs}, workdir, data)
    get_teacher = functools.cache(lambda: _get_teacher(comparing))
    results = dict[str, Summary]()
    for run in sorted(runs, key=lambda run: run.seed):  # pairs are complete early
        _finish(comparing, run, get_teacher, results)
    if processes.is_primary():
        with report_disk_faults(workdir):
            print_line(_write(comparing, runs, results))
    return [results[run.folder] for run in runs]


def _get_teacher(comparing: Comparing) -> str:
    """Returns the path of the teacher for all runs; trains it first if need be."""
    config = comparing.config
    if config.teacher.init:
        return config.teacher.init
    return str(train_teacher(config, comparing.workdir, comparing.should_stop))


def _finish(
    comparing: Comparing,
    run: PlannedRun,
    get_teacher: Callable[[], str],
    results: dict[str, Summary],
) -> None:
    """Trains a run unless it is finished, and adds its summary to the results."""
    if run.folder in results:
        return
    directory, config = comparing.workdir / run.folder, run.config
    source, undistilled = comparing.source(run.row), None
    if source == "student":
        student_run = comparing.undistilled(run.seed)
        _finish(comparing, student_run, get_teacher, results)
        undistilled = comparing.workdir / student_run.folder
    # A finished run no longer needs its teacher.
    if source == "config" and not processes.broadcast_first(
        (directory / SUMMARY).exists()
    ):
        config = config.replace(teacher=config.teacher.replace(init=get_teacher()))
    try:
        results[run.folder] = train(
            config, directory, comparing.should_stop, undistilled=undistilled
        )
    except NotFinite as error:
        raise ValueError(
            f"{run.folder}: {error}; for another rate of this row set "
            f"comparison.variants.{run.row}.optimizer.learning_rate, for one of all "
            "rows choose another --workdir"
        ) from error


def _write(
    comparing: Comparing, runs: list[PlannedRun], results: Mapping[str, Summary]
) -> str:
    """Writes the report of the comparison and returns its table."""

    def count_seconds(run: PlannedRun) -> float:
        """Returns the time of training, with that of the run's own teacher."""
        seconds = next(iter(comparing.times.values())).seconds
        seconds *= results[run.folder]["steps"] * comparing.times[run.row].cost
        if comparing.source(run.row) == "student":
            seconds += count_seconds(comparing.undistilled(run.seed))
        return seconds

    def show(folder: pathlib.Path, examples: Mapping[str, Any]) -> list[pathlib.Path]:
        if not examples:
            return []
        run = next(iter(comparing.built.values()))
        scoring = build_scoring(run.config, run.data)
        return draw_task_figures(
            scoring.task, scoring.data.meta, None, examples, folder
        )

    variants = comparing.config.comparison.variants
    changes = {name: variant.changes() for name, variant in variants.items()}
    compared = [
        ComparedRun(
            *run[:4],
            count_seconds(run),
            results[run.folder],
            {"method": run.config.method, **changes.get(run.row, {})},
        )
        for run in runs
    ]
    taught = [r.result for r in compared if comparing.source(r.row) == "config"]
    return write_comparison(
        comparing.workdir,
        comparing.config.name,
        compared,
        {name: pair.cost for name, pair in comparing.times.items()},
        _describe_teacher(comparing, taught[0] if taught else {}),
        show,
        _find_others(comparing, results),
    )


def _find_others(comparing: Comparing, results: Mapping[str, Summary]) -> list[str]:
    """Returns the folders of finished runs that this call does not compare."""
    teacher = pathlib.Path(comparing.config.teacher.workdir)
    folders = sorted(file.parent for file in comparing.workdir.glob(f"*/{SUMMARY}"))
    return [
        folder.name
        for folder in folders
        if folder.name not in results and folder.absolute() != teacher.absolute()
    ]


def _describe_teacher(
    comparing: Comparing, result: Mapping[str, Any]
) -> TeacherFacts | None:
    """Returns the score of the teacher and the time of its training, if known.

    ``result`` is the summary of a run that it taught, or {}.
    """
    score = result.get(f"teacher_{result.get('headline')}")
    if score is None:
        return None
    config, seconds = comparing.config, None
    file = pathlib.Path(config.teacher.workdir) / SUMMARY
    if not config.teacher.init and file.exists():
        facts = read_json_object(file)
        images = facts["steps"] * config.teacher_recipe()["data"].batch_size
        rate = facts["images_per_second"]  # 0 after a single step
        seconds = images / rate if rate else None
    return TeacherFacts(score, seconds)
