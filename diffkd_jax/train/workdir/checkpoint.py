"""Saves and restores checkpoints of a run (Orbax); moves damaged ones aside.

``checkpoints/<step>`` holds the items ``state`` and ``meta``. The latter is JSON: the
scores if the state was evaluated, the version of the package, a checksum of the state,
and the metrics of steps that are not in the log yet. The position in the data is a
function of the step and is not stored.
"""

import errno
import logging
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ... import __version__
from ...io import valid_json
from ...tasks import Task
from ..cluster import processes, sharding
from . import state_shapes
from .directory import read_json_object

LOG = logging.getLogger(__name__)
NEWEST = 2  # the newest checkpoint, and one to fall back to
# Orbax writes both files at the end of a save.
COMMITTED = ("commit_success.txt", "_CHECKPOINT_METADATA")
NO_HISTORY: Mapping[int, Mapping] = MappingProxyType({})
# Faults of the machine, which say nothing about the file.
MACHINE = (MemoryError, jax.errors.JaxRuntimeError)
# More such faults: texts of the operating system, which every library includes in its
# messages.
NOT_DAMAGE = [
    os.strerror(code)
    for code in (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EPERM, errno.ESTALE)
]


class _KeepBestAndNewest:
    """A policy for Orbax that keeps the newest checkpoints and the best one."""

    def __init__(self, directory: pathlib.Path, task: Task, history: Mapping) -> None:
        self.directory, self.task, self.history = directory, task, history

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Returns, for each checkpoint in the order of steps, whether it is kept."""
        del context
        scores = [self.task.goodness(self._metrics(info)) for info in checkpoints]
        # On equal scores keep the newest checkpoint; otherwise a run that makes no
        # progress would keep all of them.
        best = max(range(len(scores)), key=lambda i: (scores[i], i), default=0)
        first = len(checkpoints) - NEWEST
        return [i >= first or i == best for i in range(len(scores))]

    def _metrics(self, info: Any) -> Mapping[str, Any]:
        """Returns the scores of a checkpoint, {} if they are not known."""
        if info.step in self.history:  # the step may be evaluated after it was saved
            return self.history[info.step]
        if info.metrics:
            return info.metrics
        try:
            return _read_meta(self.directory / str(info.step))["scores"]
        except (ValueError, OSError):
            return {}  # restoring reports the damage


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, except that :mod:`..cluster.signals` handles preemption."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False: Orbax never asks JAX for preemption itself."""
        # JAX has one counter of these questions for all callers. Orbax would set it
        # back to the step, and a notice that arrives then would wait for a count that
        # has passed.
        del step
        return False


def manager(
    workdir: pathlib.Path, task: Task, history: Mapping[int, Mapping] = NO_HISTORY
) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run; moves those that were never finished aside.

    It keeps the newest two checkpoints, and the best one by the task's headline.

    Args:
      workdir: directory of the run.
      task: the task.
      history: scores by step. The manager reads it at each save, so later entries
        count.

    Returns:
      Orbax's checkpoint manager. Close it at the end.
    """
    directory = workdir.resolve() / "checkpoints"
    if processes.is_primary():
        for step in sorted(directory.glob("*")):
            if step.name.isdigit() and not all((step / n).exists() for n in COMMITTED):
                _move_aside(step, "it was not finished")
    processes.wait_for_all("unfinished checkpoints are aside")
    return _Manager(
        directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=_KeepBestAndNewest(directory, task, history),
            enable_async_checkpointing=True,
        ),
    )


def save_checkpoint(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: PyTree,
    scores: Mapping,
    pending: Iterable[tuple[int, Mapping]] = (),
) -> None:
    """Starts to write a state; returns before it is on disk.

    Args:
      checkpoints: from :func:`manager`.
      step: number of updates done.
      state: the state on the devices.
      scores: the student's scores by name; {} if it was not evaluated.
      pending: steps with their metrics, all finite, that are to be logged later.

    Raises:
      ValueError: the step was not saved, because there is a later checkpoint.
    """
    scored = {k: float(v) if np.isfinite(v) else None for k, v in scores.items()}
    meta = {"scores": scored, "version": __version__, "checksum": checksum(state)}
    if rows := [[i, jax.tree.map(lambda x: x.tolist(), row)] for i, row in pending]:
        meta["pending"] = rows
    is_saved = checkpoints.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(valid_json.loads(valid_json.dumps(meta))),
        ),
        metrics=scored,
    )
    if not is_saved:
        raise ValueError(
            f"{checkpoints.directory}: found checkpoints {checkpoints.all_steps()}, "
            f"expected none from step {step} on: it was not saved"
        )


def restore(checkpoints: ocp.CheckpointManager, state: PyTree) -> PyTree | None:
    """Returns the newest state that can be read; moves later checkpoints aside.

    The later ones are damaged.

    Args:
      checkpoints: from :func:`manager`.
      state: a state of the wanted structure and sharding.

    Returns:
      The restored state, or None if there is no checkpoint.

    Raises:
      ValueError: there are checkpoints but none can be read, or the newest readable one
        belongs to another model, optimizer or method.
    """
    directory = pathlib.Path(checkpoints.directory)
    damaged: list[int] = []
    for step in sorted(checkpoints.all_steps(), reverse=True):
        restored = _restore(checkpoints, step, state)
        if restored is None:
            damaged.append(step)
            continue
        if damaged:
            if processes.is_primary():
                for other in damaged:
                    _move_aside(directory / str(other), "it is damaged")
            processes.wait_for_all("damaged checkpoints are aside")
            # Otherwise the manager would refuse to save steps up to the damaged ones.
            checkpoints.reload()
        return restored
    if damaged:
        raise ValueError(
            f"{directory}: found checkpoints {damaged} and none that can be read, "
            "expected one; put back a copy of one or choose another --workdir"
        )
    return None


def _restore(
    checkpoints: ocp.CheckpointManager, step: int, state: PyTree
) -> PyTree | None:
    """Returns the state of a step; None, on all processes alike, if it is damaged."""
    directory = pathlib.Path(checkpoints.directory) / str(step)
    restored, stored_shapes = None, {}
    try:
        meta = _read_meta(directory)
        stored_shapes = state_shapes.shapes_on_disk(directory)
    except MACHINE:
        raise
    except Exception as error:  # Orbax has no error type for damaged files
        _note_damage(step, error)
    # All processes decide together, because they restore together.
    if not processes.everywhere(bool(stored_shapes)):
        return None
    target = state_shapes.restore_target(state)
    shapes = state_shapes.shapes_by_path(target)
    state_shapes.check_fits(directory, meta, stored_shapes, shapes)
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        restored = checkpoints.restore(step, args=args).state
    except MACHINE:
        raise
    except Exception as error:  # Orbax raises TensorStore's errors as this type
        _note_damage(step, error)
        restored = None
    # The checksum needs the parts of all processes.
    is_restored = processes.everywhere(restored is not None)
    if restored is None or not is_restored:
        return None
    try:
        if checksum(restored) != meta["checksum"]:
            raise ValueError("its checksum is another")
        if (stored_step := int(restored.step)) != step:
            raise ValueError(f"it holds step {stored_step}")
    except ValueError as error:
        _note_damage(step, error)
        restored = None
    return restored if processes.everywhere(restored is not None) else None


def pending(checkpoints: ocp.CheckpointManager, step: int) -> list[tuple[int, Mapping]]:
    """Returns the metrics that were not yet logged when a checkpoint was saved.

    Args:
      checkpoints: from :func:`manager`.
      step: step of the checkpoint.

    Returns:
      Steps with their metrics, in order. Empty, with a warning, if they cannot be read.
    """
    directory = pathlib.Path(checkpoints.directory) / str(step)
    try:
        return [
            (int(i), {k: np.asarray(v, np.float32) for k, v in row.items()})
            for i, row in _read_meta(directory).get("pending", [])
        ]
    except (AttributeError, TypeError, ValueError) as error:
        LOG.warning("%s: metrics to be logged are left out: %s", directory, error)
        return []


def checksum(tree: PyTree) -> int:
    """Returns the CRC-32 of all arrays of a tree, in the tree's order.

    On several processes all of them have to call it.

    Args:
      tree: arrays, which may be sharded.

    Returns:
      The checksum, 0 to 2**32 - 1.

    >>> checksum({"a": np.zeros(2)}) != checksum({"a": -np.zeros(2)})
    True
    """
    value = 0
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(sharding.gathered(leaf))
        value = zlib.crc32(array.view(np.uint8).data, value)
    return value


def _read_meta(directory: pathlib.Path) -> dict[str, Any]:
    """Reads the item ``meta`` of a checkpoint.

    Raises:
      ValueError: it holds something else.
      OSError: it cannot be read.
    """
    meta = read_json_object(directory / "meta/metadata")
    scores = meta.get("scores")
    if not isinstance(scores, dict):
        raise ValueError(f"{directory}: found scores {scores!r}, expected an object")
    if type(meta.get("checksum")) is not int or not all(
        isinstance(value, int | float | None) for value in scores.values()
    ):
        raise ValueError(f"{directory}: found no checksum and scores, expected them")
    return meta


def _move_aside(step: pathlib.Path, why: str) -> None:
    """Moves a checkpoint to ``damaged/<step>`` of the workdir; deletes nothing."""
    folder = step.parents[1] / "damaged"
    folder.mkdir(exist_ok=True)
    names = (f"{step.name}{f'-{i}' if i else ''}" for i in range(1000))
    target = next(folder / name for name in names if not (folder / name).exists())
    step.rename(target)
    LOG.warning("checkpoint %s moved to %s: %s", step, target, why)


def _note_damage(step: int, error: Exception) -> None:
    """Logs why a checkpoint cannot be read; raises OSError if it may be undamaged."""
    if fault := next((f for f in NOT_DAMAGE if f in str(error)), ""):
        raise OSError(
            f"workdir: found {fault!r} on reading the checkpoint of step {step}, "
            "expected one that can be read; nothing was changed"
        ) from None
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    LOG.warning(
        "checkpoint of step %d cannot be read, trying the one before: %s", step, first
    )
