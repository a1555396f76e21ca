"""Checks what a run needs outside of itself before its first step.

That is devices, memory, files and workdirs. :mod:`diffkd_jax.train.check` checks
whether the parts of a run fit each other.
"""

import logging
import pathlib
from collections import Counter
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from ..config.comparison import Variant, prefix_variant_fields
from ..config.section import Section
from ..config.sections import Config
from ..data import Data
from ..models.model import Model
from .build import build
from .check import check_teacher
from .cluster.processes import broadcast_first
from .cluster.sharding import make_mesh  # noqa: F401  for the example
from .initial_state import check_initial_weights
from .memory import count_bytes, device_bytes, format_bytes
from .plan import make_plan
from .run import Run
from .teacher import (
    check_teacher_fields,
    load_teacher,
    prefix_teacher_fields,
    teacher_config,
    teacher_directory,
    undistilled_config,
)
from .workdir.claim import claim_workdir
from .workdir.directory import SUMMARY, check_directory, has_checkpoints

LOG = logging.getLogger(__name__)


def check_comparison(
    rows: Mapping[str, Mapping[str, Config]],
    workdir: pathlib.Path,
    variants: Mapping[str, Variant],
    recipe: Mapping[str, Section],
) -> dict[str, Run]:
    """Builds a run of each row, and checks everything that the runs will need.

    It writes nothing. Of a finished run it checks only the config and the workdir. It
    opens the data once, each teacher once, and builds one run of each row.

    Args:
      rows: for each row, configs by the name of their folder. All of them have the same
        data, and those of one row differ in the seed only.
      workdir: directory of the comparison, with one folder for each run.
      variants: the rows that are variants, by name.
      recipe: sections of the comparison's config by name, by which a teacher is
        trained, whatever variants set.

    Returns:
      A built run of each row, by row.

    Raises:
      ValueError: a config cannot run, or a workdir holds another run.
      FileNotFoundError: data or weights are missing.
    """
    data, built = None, dict[str, Run]()
    teachers = dict[str, Model | None]()
    for row, runs in rows.items():
        with prefix_variant_fields(row, variants.get(row)):
            built[row] = run = build(next(iter(runs.values())), data)
        data = run.data
        unfinished = []
        for name, run_config in runs.items():
            claim_workdir(run_config, workdir / name, data.record(), write=False)
            # The first process decides, because the others may see a new file later.
            if not broadcast_first((workdir / name / SUMMARY).exists()):
                check_directory(workdir / name)
                unfinished.append(workdir / name)
        if not unfinished:
            continue
        check_start(run, unfinished[0])
        if run.teacher is None:
            continue
        teacher = run.config.teacher
        source = f"{run.method.teacher} {teacher.init} {teacher.weights}"
        if source not in teachers:
            taught = run._replace(config=run.config.replace(**recipe))
            teachers[source] = check_teacher_source(taught, unfinished[0])
        elif (loaded := teachers[source]) is not None:
            check_teacher(run, loaded)  # a method may need what others do not
    for row, run in built.items():
        if run.method.teacher == "student" and "none" not in built:
            raise ValueError(
                f"compare: found {row!r}, whose teacher is the student of 'none', "
                "without 'none', expected both; add none to compare"
            )
    return built


def claim_runs(runs: Mapping[str, Config], workdir: pathlib.Path, data: Data) -> None:
    """Checks whether the runs of a comparison may use their directories.

    It writes nothing. It also computes their number of steps, which may be 0.

    Args:
      runs: configs by the name of their folder.
      workdir: directory of the comparison.
      data: the data of all of them.

    Raises:
      ValueError: a directory holds another run, or a run would have no step.
    """
    for name, config in runs.items():
        make_plan(config, data)
        claim_workdir(config, workdir / name, data.record(), write=False)
        if not broadcast_first((workdir / name / SUMMARY).exists()):
            check_directory(workdir / name)


def check_start(run: Run, workdir: pathlib.Path | None = None) -> None:
    """Checks whether the devices can hold a run, and whether its student can start.

    Args:
      run: the run.
      workdir: directory of the run. If it holds checkpoints, the run resumes from them
        and does not read initial weights. None for a dry run.

    Raises:
      ValueError: the initial weights of the student do not fit, or the devices cannot
        share or hold a batch or a state.
      FileNotFoundError: there are no such weights.
    """
    config, mesh = run.config, run.devices.mesh
    check_batch(run.plan.batch_size, config.train.norm_group_size, mesh)
    check_memory(run)
    # The first process decides, because the others may see a new file later.
    if workdir is None or not broadcast_first(has_checkpoints(workdir)):
        check_initial_weights(run)


def check_teacher_source(run: Run, workdir: pathlib.Path | None = None) -> Model | None:
    """Checks whether a run's teacher can be loaded and used, or can be trained.

    A dry run without a file and without a training only logs a warning.

    Args:
      run: the run. Without a teacher nothing is checked.
      workdir: directory of the run; None for a dry run.

    Returns:
      The loaded teacher. None if there is none yet.

    Raises:
      ValueError: the teacher in the file does not fit, or the config of its training or
        its workdir does not allow to train it.
      FileNotFoundError: there is no such file.
    """
    config, teacher = run.config, run.teacher
    if teacher is None or run.method.teacher == "random":
        return None
    if run.method.teacher == "student":
        directory = None if workdir is None else workdir / "teacher"
        _check_training(undistilled_config(config), run, directory)
        return None
    if config.teacher.init:
        loaded = load_teacher(config.teacher.init, teacher, config.teacher.weights)
        check_teacher(run, loaded)
        return loaded
    if workdir is None and not config.teacher.epochs:
        LOG.warning("teacher.init: found '', which a run needs, or teacher.epochs > 0")
    else:
        check_teacher_fields(config)
        _check_trained_classes(run)
        directory = None if workdir is None else teacher_directory(config, workdir)
        with prefix_teacher_fields(config):
            _check_training(teacher_config(config), run, directory)
    return None


def _check_training(recipe: Config, run: Run, workdir: pathlib.Path | None) -> None:
    """Checks whether the teacher of a run can be trained with this recipe."""
    if workdir is not None:
        claim_workdir(recipe, workdir, run.data.record(), write=False)
        if not (workdir / SUMMARY).exists():
            check_directory(workdir)
    build(recipe, run.data)


def _check_trained_classes(run: Run) -> None:
    """Raises ValueError if a teacher that is trained here would have other classes."""
    expected = run.data.meta["num_classes"]
    if run.teacher is not None and run.teacher.meta["num_classes"] != expected:
        raise ValueError(
            f"teacher.num_classes: found {run.teacher.meta['num_classes']} for a "
            f"teacher that is trained on data of {expected}, expected 0 for those of "
            "the data, or teacher.init with a teacher of other data"
        )


def check_batch(size: int, group: int, mesh: Mesh) -> None:
    """Checks whether the devices can share a training batch equally.

    It logs a warning if the examples over which a batch norm takes its statistics are
    on several devices, which is slow.

    Args:
      size: ``data.batch_size``, over all processes.
      group: ``train.norm_group_size``, 0 for the whole batch.
      mesh: the devices.

    Raises:
      ValueError: the processes have different numbers of devices, or the batch size is
        not a multiple of the number of devices.

    >>> check_batch(8, 0, make_mesh(1))
    """
    processes = jax.process_count()
    counts = Counter(device.process_index for device in mesh.devices.flat)
    if len(counts) < processes or len(set(counts.values())) > 1:
        raise ValueError(
            f"num_devices: found {mesh.size}, of {processes} processes "
            f"{sorted(counts.values())}, expected as many of each"
        )
    if size % mesh.size:
        raise ValueError(
            f"data.batch_size: found {size}, expected a multiple of the {mesh.size} "
            f"devices of {processes} processes, or other num_devices"
        )
    share = size // mesh.size
    if mesh.size > 1 and share % (group or size):
        LOG.warning(
            "train.norm_group_size: %d examples on %d devices of %d each: every batch "
            "norm waits for all devices (R34 to R18: 349 exchanges a step instead of "
            "5); %d keeps groups on a device",
            *(group or size, mesh.size, share, share),
        )


def check_memory(run: Run) -> None:
    """Checks whether the state, the teacher and a batch fit into the devices' memory.

    Args:
      run: the run.

    Raises:
      ValueError: they alone are larger than the memory of a device.
    """
    needed, available = count_bytes(run), device_bytes(run.devices.mesh)
    if available and sum(needed.values()) > available:
        parts = ", ".join(f"{name} {format_bytes(n)}" for name, n in needed.items())
        raise ValueError(
            f"num_devices: found {run.devices.mesh.size} devices of "
            f"{format_bytes(available)} for {format_bytes(sum(needed.values()))} "
            f"on each ({parts}), expected less; "
            "lower data.batch_size, data.image_size or the model's width, or split "
            "large arrays with mesh.fsdp"
        )
