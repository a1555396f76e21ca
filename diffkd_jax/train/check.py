"""What is looked at before the first step, so that nothing is refused after hours."""

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
    """Builds the run of each config and looks at all that it will read.

    Nothing is written. Of a finished run only the config is looked at. Data are opened
    once, and so is each teacher.

    Args:
      runs: config by name. All have the same data.
      workdir: directory that holds the run of each name.

    Raises:
      ValueError: a config that cannot run, or a workdir that holds another run.
      FileNotFoundError: missing data or weights.
    """
    data, seen = None, set[str]()
    for name, config in runs.items():
        run = build(config, data)
        data, directory = run.data, workdir / name
        claim_workdir(config, directory, data.record(), write=False)
        teacher = f"{config.teacher.init} {config.teacher.weights}"
        # The first process says what is there: others may see a file later.
        if as_first((directory / SUMMARY).exists()):
            continue
        check_directory(directory)
        check_run(
            config,
            run,
            directory,
            starts=not as_first(has_checkpoints(directory)),
            teacher=run.teacher is not None and teacher not in seen,
        )
        if run.teacher is not None:
            seen.add(teacher)


def check_run(
    config: Config,
    run: Run,
    workdir: pathlib.Path | None = None,
    *,
    starts: bool = True,
    teacher: bool = True,
) -> None:
    """Looks at the devices of a run, and at the weights that it will read.

    Args:
      config: of the run.
      run: what ``config`` names, from :func:`diffkd_jax.train.build.build`.
      workdir: where the run will train; None for a dry run.
      starts: False for a run that goes on from a checkpoint.
      teacher: False if the teacher was already looked at.

    Raises:
      ValueError: weights that do not fit, or a batch or a state that the devices
        cannot share or hold.
      FileNotFoundError: missing weights.
    """
    sharding.check_batch(run.plan.batch_size, config.train.norm_group_size, run.mesh)
    check_memory(run)
    expected = run.teacher
    get = None if expected is None else lambda: expected
    starting(config.student, run, get, config.optimizer.frozen)
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
        own = teacher_config(config)
        if workdir is not None:
            directory = directory_of(config, workdir)
            claim_workdir(own, directory, run.data.record(), write=False)
            if not (directory / SUMMARY).exists():
                check_directory(directory)
        with teacher_fields_named(config):
            build(own, run.data)
