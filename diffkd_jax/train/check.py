"""Checks everything that a run will read before its first step."""

import logging
import pathlib
from collections.abc import Mapping

from ..config.sections import Config
from .build import Run, build
from .cluster import sharding
from .cluster.processes import as_first
from .initial_state import check_start, starting
from .memory import check_memory
from .teacher import (
    check_source,
    directory_of,
    load_teacher,
    teacher_config,
    teacher_fields_named,
)
from .workdir.directory import SUMMARY, check_directory, has_checkpoints
from .workdir.identity import claim_workdir

LOG = logging.getLogger(__name__)


def check_comparison(runs: Mapping[str, Config], workdir: pathlib.Path) -> None:
    """Builds the run of each config, and checks everything that it will read.

    It writes nothing. For a finished run only the config is checked. Data are opened
    once, and so is each teacher.

    Args:
      runs: configs by name. All of them have the same data.
      workdir: directory with one folder for each name.

    Raises:
      ValueError: a config cannot run, or a workdir holds another run.
      FileNotFoundError: data or weights are missing.
    """
    data, checked_teachers = None, set[str]()
    for name, config in runs.items():
        run = build(config, data)
        data, directory = run.data, workdir / name
        claim_workdir(config, directory, data.record(), write=False)
        teacher = f"{config.teacher.init} {config.teacher.weights}"
        # The first process decides, because the others may see a new file later.
        if as_first((directory / SUMMARY).exists()):
            continue
        check_directory(directory)
        check_run(
            config,
            run,
            directory,
            starts=not as_first(has_checkpoints(directory)),
            teacher=run.teacher is not None and teacher not in checked_teachers,
        )
        if run.teacher is not None:
            checked_teachers.add(teacher)


def check_run(
    config: Config,
    run: Run,
    workdir: pathlib.Path | None = None,
    *,
    starts: bool = True,
    teacher: bool = True,
) -> None:
    """Checks whether the devices can hold a run, and whether its weights fit.

    Args:
      config: a resolved config.
      run: the run built from ``config``.
      workdir: directory where the run will train; None for a dry run.
      starts: whether the run starts anew; False if it resumes from a checkpoint.
      teacher: whether to check the teacher; False if another call has done so.

    Raises:
      ValueError: weights do not fit, or the devices cannot share or hold a batch or a
        state.
      FileNotFoundError: weights are missing.
    """
    sharding.check_batch(run.plan.batch_size, config.train.norm_group_size, run.mesh)
    check_memory(run)
    expected = run.teacher
    get_expected = None if expected is None else lambda: expected
    starting(config.student, run, get_expected, config.optimizer.frozen)
    if starts:
        check_start(config.student, run)
    if expected is None or not teacher:
        return
    if config.teacher.init:
        load_teacher(config.teacher.init, expected, config.teacher.weights)
    elif workdir is None and not config.teacher.epochs:
        LOG.warning("teacher.init: found '', which a run needs, or teacher.epochs > 0")
    else:
        check_source(config)
        teacher_run = teacher_config(config)
        if workdir is not None:
            directory = directory_of(config, workdir)
            claim_workdir(teacher_run, directory, run.data.record(), write=False)
            if not (directory / SUMMARY).exists():
                check_directory(directory)
        with teacher_fields_named(config):
            build(teacher_run, run.data)
