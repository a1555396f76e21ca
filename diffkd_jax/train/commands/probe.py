"""Runs the command that says in minutes whether and how distillation can pay."""

import functools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ...config.resolve import resolve
from ...config.sections import Config, Probe
from ...data import Data
from ...methods import METHODS
from ..build import build, build_scoring
from ..cluster import processes
from ..cluster.signals import ShouldStop, never, stop_if_requested
from ..outputs.advice import ProbeFacts
from ..outputs.metrics import print_line
from ..outputs.probe_report import (
    RESULT,
    read_methods,
    read_teacher_score,
    write_probe,
)
from ..preflight import check_start, check_teacher_source
from ..run import Run
from ..teacher import teacher_directory
from ..workdir.directory import RECORD, REPORT, SUMMARY, read_json_object
from ..workdir.disk_errors import report_disk_faults
from ..workdir.lock import lock_workdir
from .compare import compare
from .planned_runs import configs_by_row, name_folder, scale_length
from .step_times import (
    StepTime,
    measure_step,
    read_or_measure,
    relate_times,
    stored_reference,
)
from .train import train_teacher

LOG = logging.getLogger(__name__)
DEFAULT_METHODS = ("kd", "dist", "diffkd", "mse_fpn", "diffkd_fpn")
EVALUATIONS_OF_A_RUN, DIAGNOSES_OF_A_RUN = 8, 8
FEWEST_STEPS = 8
# Held-out images: a tenth of the training images within these limits.
LEAST_HELD_OUT, MOST_HELD_OUT = 200, 2000
# Fields that scale with the length of a run.
EPOCH_FIELDS = (
    ("train", "epochs"),
    ("train", "max_steps"),
    ("train", "distill_warmup_epochs"),
    ("schedule", "boundaries"),
    ("schedule", "every_epochs"),
    ("schedule", "warmup_epochs"),
)
RUNS = "comparison"  # folder of the short runs


class Length(NamedTuple):
    """The length of the short runs of a probe.

    Attributes:
      steps: number of steps of each run for equal steps.
      planned: number of steps of the config's training.
    """

    steps: int
    planned: int


def probe(
    config: Any,
    workdir: pathlib.Path,
    should_stop: ShouldStop = never,
    *,
    measure: Callable[[Run, Run], StepTime] | None = None,
) -> ProbeFacts:
    """Trains each method for a short time and derives what to try first.

    The methods are those of ``config.compare``, with ``none``, or ``none`` and the
    common ones that the task has. All short runs share ``probe.seconds``. The teacher
    is loaded, or trained first, which is not counted. All scores are those of held-out
    training images. The same call resumes a probe that was stopped.

    Args:
      config: a config as recipes make it, or a resolved one.
      workdir: directory of the probe, created if needed.
      should_stop: returns the number of the signal to stop for, or 0.
      measure: ``(run, reference) -> time``, measures a step; None for
        :func:`diffkd_jax.train.commands.step_times.measure_step`.

    Returns:
      What was measured. The workdir holds ``probe.md``, ``probe.json`` and
      ``report.html``.

    Raises:
      ValueError: the config cannot run, or the workdir holds something else.
      FileNotFoundError: the data or the teacher are missing.
      Stopped: a stop was requested; the same call resumes the probe.
    """
    config = resolve(config)
    refuse_own_lengths(config)
    refuse_other_workdir(workdir)
    with report_disk_faults(workdir), lock_workdir(workdir):
        measure = measure or functools.partial(measure_step, should_stop=should_stop)
        return _probe(config, workdir, should_stop, measure)


def refuse_own_lengths(config: Config) -> None:
    """Checks that no variant has a length or epochs of its own.

    A probe sets the length of all runs, and epochs of a variant would not shrink.

    Args:
      config: the resolved config of the probe.

    Raises:
      ValueError: a variant sets such a field.
    """
    for row, variant in config.comparison.variants.items():
        changes = variant.changes()
        for section, name in EPOCH_FIELDS:
            if name in changes.get(section, {}):
                raise ValueError(
                    f"comparison.variants.{row}.{section}.{name}: found "
                    f"{changes[section][name]}, expected no such field in a probe, "
                    "which sets the length of all runs; leave it out"
                )


def refuse_other_workdir(workdir: pathlib.Path) -> None:
    """Checks that a probe in this workdir would not overwrite another report.

    Args:
      workdir: directory of the probe.

    Raises:
      ValueError: the workdir holds a run, a comparison, or a report that is not of a
        probe.
    """
    report = workdir / REPORT
    is_foreign = os.path.lexists(report) and not (workdir / RESULT).exists()
    if processes.broadcast_first(is_foreign or (workdir / RECORD).exists()):
        raise ValueError(
            f"workdir: found another run or comparison in {workdir}, whose report a "
            "probe would overwrite, expected a new directory or that of a probe; "
            "choose another --workdir"
        )


def _probe(
    config: Config,
    workdir: pathlib.Path,
    should_stop: ShouldStop,
    measure: Callable[[Run, Run], StepTime],
) -> ProbeFacts:
    """Runs a probe in its locked workdir."""
    scoring = build_scoring(config)
    asked, (config, notes) = config, hold_out_images(config, scoring.data)
    built, left_out = build_methods(config)
    if left_out:
        names = ", ".join(left_out)
        notes.append(f"Left out, because task or networks do not have them: {names}.")
    taught = [run for run in built.values() if run.teacher is not None]
    for run in built.values():
        check_start(run)
    sources = {run.method.teacher: run for run in taught}
    for run in sources.values():
        check_teacher_source(run, workdir)
    stop_if_requested(should_stop)
    times = _measure_all(built, workdir / RUNS, should_stop, measure)
    none = times["none"]
    costs = {name: pair.cost / none.cost for name, pair in times.items()}
    length = share_budget(config, built["none"], none.seconds, costs)
    print_line(
        f"{config.name}  probe of {', '.join(built)}: {length.steps} of "
        f"{length.planned} steps each, for about {config.probe.seconds:g} s in all"
    )
    short = _shorten(config, tuple(times), length)
    if "config" in sources:
        teacher = config.teacher.init
        if not teacher:
            teacher = str(train_teacher(config, workdir, should_stop))
            notes.append(_describe_training(teacher_directory(config, workdir), config))
        short = short.replace(teacher=short.teacher.replace(init=teacher))
    compare(short, workdir / RUNS, should_stop, measure=measure)
    seeds = config.comparison.seeds or (config.seed,)
    folders = {name: name_folder(config, name, seeds[0]) for name in built}
    directories = [workdir / RUNS / folder for folder in folders.values()]
    headline = scoring.task.headline
    facts = ProbeFacts(
        headline=headline,
        higher_is_better=scoring.task.higher_is_better,
        images=built["none"].data.evaluation.size,
        steps=length.steps,
        planned_steps=length.planned,
        teacher=read_teacher_score(directories, headline),
        is_given=bool(asked.teacher.init) and "config" in sources,
        methods=read_methods(
            workdir / RUNS,
            folders,
            costs,
            {name: run.method.weights for name, run in built.items()},
        ),
        seeds=len(seeds),
    )
    if processes.is_primary():
        paths = {name: f"{RUNS}/{folder}" for name, folder in folders.items()}
        print_line(write_probe(workdir, config.name, facts, notes, paths))
    return facts


def hold_out_images(config: Config, data: Data) -> tuple[Config, list[str]]:
    """Returns the config of a probe, which evaluates on held-out training images.

    If ``data.holdout`` is 0, a tenth of the training images is held out, at least 200
    and at most 2,000, but never more than half of them.

    Args:
      config: a resolved config.
      data: its data.

    Returns:
      The config, and sentences that say which images are held out.
    """
    size, teacher = config.data.holdout, config.teacher
    if size:
        by = "as data.holdout says"
    else:
        available = data.train.size
        size = min(MOST_HELD_OUT, max(LEAST_HELD_OUT, available // 10), available // 2)
        by = "which the probe chose, because data.holdout is 0"
        # A teacher that was trained in a folder of the user has seen these images.
        teacher = teacher.replace(workdir="")
    section = config.data.replace(holdout=size, eval_split="holdout")
    held_out = config.replace(
        mode="train", probe=config.probe, data=section, teacher=teacher, evaluations={}
    )
    note = (
        f"All scores are those of {size} held-out training images, {by}. They are not "
        "trained on. The test split is not used."
    )
    return held_out, [note]


def build_methods(config: Config) -> tuple[dict[str, Run], list[str]]:
    """Builds a run of each method of a probe.

    Args:
      config: the config of the probe, at its full length.

    Returns:
      Runs by method, ``none`` first, and the default methods that cannot run here.

    Raises:
      ValueError: a method that ``compare`` names cannot run, or none of the default
        ones can.
    """
    names = tuple(dict.fromkeys(("none", *config.compare)))
    if config.compare and len(names) == 1:
        raise ValueError(
            f"compare: found {config.compare}, expected a method beside none, or () "
            "for those that the task has"
        )
    if config.compare:
        by_method = configs_by_row(config.replace(compare=names))
        built = dict[str, Run]()
        for name, one in by_method.items():
            data = built["none"].data if built else None
            built[name] = build(one, data)
        return built, []
    chosen = (config.method,) if config.method in METHODS else ()
    names = tuple(dict.fromkeys(("none", *DEFAULT_METHODS, *chosen)))
    built, left_out = dict[str, Run](), dict[str, str]()
    for name, one in configs_by_row(config.replace(compare=names)).items():
        try:
            built[name] = build(one, built["none"].data if built else None)
        except ValueError as error:
            if name == "none":
                raise
            left_out[name] = str(error).splitlines()[0]
            LOG.debug("%s is left out: %s", name, left_out[name])
    if len(built) == 1:
        reasons = "\n".join(f"{name}: {why}" for name, why in left_out.items())
        raise ValueError(
            f"compare: found (), expected methods that the task has, because none of "
            f"{list(names[1:])} can run:\n{reasons}"
        )
    return built, list(left_out)


def _measure_all(
    built: Mapping[str, Run],
    workdir: pathlib.Path,
    should_stop: ShouldStop,
    measure: Callable[[Run, Run], StepTime],
) -> dict[str, StepTime]:
    """Returns the time of a step of each method, the costliest method first.

    It is the reference of the comparison, so that the others train longer for equal
    time, and ``none`` shows what plain training makes of this time.
    """
    stored = stored_reference(workdir) if processes.is_primary() else ""
    names = list(built)
    index = names.index(stored) if stored in names else 0
    reference = names[processes.broadcast_first(index)]
    order = dict.fromkeys((reference, *names))
    runs = {name: built[name] for name in order}
    times = read_or_measure(runs, workdir, should_stop, measure)
    costliest = max(times, key=lambda name: times[name].cost)
    if costliest == reference:
        return times
    return relate_times(times, costliest, workdir)


def share_budget(
    config: Config, run: Run, seconds: float, costs: Mapping[str, float]
) -> Length:
    """Returns the length of the short runs, at which they take ``probe.seconds``.

    Each method is trained for equal steps, and for the time of the costliest method.

    Args:
      config: the config of the probe.
      run: the run of ``none`` at its full length.
      seconds: time of a step of ``none``.
      costs: time of a step by method, as a multiple of that of ``none``.

    Returns:
      The length, never longer than the config's own training.
    """
    longest = max(costs.values())
    each = seconds * (sum(costs.values()) + longest * (len(costs) - 1))
    seeds = len(config.comparison.seeds or (config.seed,))
    steps = math.floor(config.probe.seconds / (seeds * each)) if each else FEWEST_STEPS
    planned = run.plan.total_steps
    return Length(min(max(steps, FEWEST_STEPS), planned), planned)


def _shorten(config: Config, methods: tuple[str, ...], length: Length) -> Config:
    """Returns the config of the comparison of the short runs."""
    scaled = scale_length(config, length.steps / length.planned)
    train = scaled.train.replace(
        diagnose_every=max(1, length.steps // DIAGNOSES_OF_A_RUN),
        chance_evaluations=0,  # such short runs may well end there
    )
    return scaled.replace(
        train=train,
        eval_every_epochs=train.epochs / EVALUATIONS_OF_A_RUN,
        compare=methods,
        comparison=config.comparison.replace(budget=("steps", "time")),
        probe=Probe(),
    )


def _describe_training(workdir: pathlib.Path, config: Config) -> str:
    """Says how long the training of the teacher took, which is not counted."""
    facts = read_json_object(workdir / SUMMARY)
    rate = facts["images_per_second"]  # 0 after a single step
    images = facts["steps"] * config.teacher_recipe()["data"].batch_size
    spent = f"{images / rate:.0f} s" if rate else "an unknown time"
    return f"The teacher was trained first, which took {spent} and is not counted."
