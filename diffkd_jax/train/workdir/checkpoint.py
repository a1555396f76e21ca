"""Checkpoints of a run (Orbax): kept by score, checked, moved aside when damaged.

``checkpoints/<step>`` holds the items ``state`` and ``meta``, JSON: scores if it was
evaluated, the version of the package, a checksum of the state, and the metrics of steps
that are not in the log yet. The position in the data is a function of the step and not
stored.
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

from ... import __version__
from ...io import valid_json
from ...tasks import Task
from ..cluster import processes, sharding
from . import state_shapes
from .directory import read_json_object

LOG = logging.getLogger(__name__)
NEWEST = 2  # one to fall back to
# Orbax writes both at the end of a save.
COMMITTED = ("commit_success.txt", "_CHECKPOINT_METADATA")
NO_HISTORY: Mapping[int, Mapping] = MappingProxyType({})
MACHINE = (MemoryError, jax.errors.JaxRuntimeError)  # its fault, not the file's
# So are these, in the words of the system, which all libraries pass on.
NOT_DAMAGE = [
    os.strerror(code)
    for code in (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EPERM, errno.ESTALE)
]


class KeepBestAndNewest:
    """Orbax's policy of what stays: the newest checkpoints, and the best by score."""

    def __init__(self, directory: pathlib.Path, task: Task, history: Mapping):
        self.directory, self.task, self.history = directory, task, history

    def should_preserve(self, checkpoints: Sequence[Any], *, context) -> Sequence[bool]:
        del context
        scores = [self.task.goodness(self._metrics(info)) for info in checkpoints]
        # Of equal ones the newest, else a run that stands still would keep them all.
        best = max(range(len(scores)), key=lambda i: (scores[i], i), default=0)
        first = len(checkpoints) - NEWEST
        return [i >= first or i == best for i in range(len(scores))]

    def _metrics(self, info) -> Mapping[str, Any]:
        if info.step in self.history:  # evaluated since it was saved, perhaps
            return self.history[info.step]
        if info.metrics:
            return info.metrics
        try:
            return _read_meta(self.directory / str(info.step))["scores"]
        except (ValueError, OSError):
            return {}  # restoring says so


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves notices of the platform to :mod:`.stop`."""

    def reached_preemption(self, step: int) -> bool:
        # There is one count of questions for all who ask. By steps, Orbax would set it
        # back, and a notice that comes meanwhile would wait for a count of the past.
        del step
        return False


def manager(
    workdir: pathlib.Path, task: Task, history: Mapping[int, Mapping] = NO_HISTORY
) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run; what was never finished is moved aside.

    The best one by the headline of the task is kept.

    Args:
      workdir: of the run.
      task: of the run.
      history: scores by step, as they are when a checkpoint is saved.
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
            preservation_policy=KeepBestAndNewest(directory, task, history),
            enable_async_checkpointing=True,
        ),
    )


def save_checkpoint(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: Any,
    scores: Mapping,
    pending: Iterable[tuple[int, Mapping]] = (),
) -> None:
    """Starts writing a state; returns before it is on disk.

    Args:
      checkpoints: from :func:`manager`.
      step: number of updates done.
      state: on the devices.
      scores: of the student, numbers by name; none if it was not evaluated.
      pending: steps and their metrics, finite, that are to be logged later.

    Raises:
      ValueError: the step was not taken, for a later one is there.
    """
    scored = {k: float(v) if np.isfinite(v) else None for k, v in scores.items()}
    meta = {"scores": scored, "version": __version__, "checksum": checksum(state)}
    if rows := [[at, jax.tree.map(lambda x: x.tolist(), row)] for at, row in pending]:
        meta["pending"] = rows
    taken = checkpoints.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave(valid_json.loads(valid_json.dumps(meta))),
        ),
        metrics=scored,
    )
    if not taken:
        raise ValueError(
            f"{checkpoints.directory}: found checkpoints {checkpoints.all_steps()}, "
            f"expected none from step {step} on: it was not saved"
        )


def restore(checkpoints: ocp.CheckpointManager, state: Any) -> Any | None:
    """The newest state that can be read; damaged ones after it are moved aside.

    Args:
      checkpoints: from :func:`manager`.
      state: a state of the wanted structure and sharding.

    Returns:
      The restored state, or None if there is no checkpoint.

    Raises:
      ValueError: checkpoints are there and none can be read, or one that can is of
        another model, optimizer or method.
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
            checkpoints.reload()  # else the steps up to theirs would not be saved
        return restored
    if damaged:
        raise ValueError(
            f"{directory}: found checkpoints {damaged} and none that can be read, "
            "expected one; put back a copy of one or choose another --workdir"
        )
    return None


def _restore(checkpoints: ocp.CheckpointManager, step: int, state: Any) -> Any | None:
    """The state of a step, or None where it is damaged, on all processes alike."""
    directory = pathlib.Path(checkpoints.directory) / str(step)
    restored, found = None, {}
    try:
        meta = _read_meta(directory)
        found = state_shapes.on_disk(directory)
    except MACHINE:
        raise
    except Exception as error:  # Orbax has no type for a file that is none
        _note_damage(step, error)
    # Before restoring, which all processes do together.
    if not processes.everywhere(bool(found)):
        return None
    target = state_shapes.target_of(state)
    state_shapes.check_fits(directory, meta, found, state_shapes.of(target))
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        restored = checkpoints.restore(step, args=args).state
    except MACHINE:
        raise
    except Exception as error:  # which is what Orbax makes of TensorStore's errors
        _note_damage(step, error)
        restored = None
    # The checksum is of all processes' parts.
    there = processes.everywhere(restored is not None)
    if restored is None or not there:
        return None
    try:
        if checksum(restored) != meta["checksum"]:
            raise ValueError("its checksum is another")
        if (held := int(restored.step)) != step:
            raise ValueError(f"it holds step {held}")
    except ValueError as error:
        _note_damage(step, error)
        restored = None
    return restored if processes.everywhere(restored is not None) else None


def pending(checkpoints: ocp.CheckpointManager, step: int) -> list[tuple[int, Mapping]]:
    """Steps and metrics that were not in the log when a checkpoint was saved."""
    directory = pathlib.Path(checkpoints.directory) / str(step)
    try:
        return [
            (int(at), {k: np.asarray(v, np.float32) for k, v in row.items()})
            for at, row in _read_meta(directory).get("pending", [])
        ]
    except (AttributeError, TypeError, ValueError) as error:
        LOG.warning("%s: metrics to be logged are left out: %s", directory, error)
        return []


def checksum(tree: Any) -> int:
    """CRC-32 of all arrays of a tree, in its order; all processes have to ask.

    >>> checksum({"a": np.zeros(2)}) != checksum({"a": -np.zeros(2)})
    True
    """
    value = 0
    for leaf in jax.tree.leaves(tree):
        whole = np.ascontiguousarray(sharding.gathered(leaf))
        value = zlib.crc32(whole.view(np.uint8).data, value)
    return value


def _read_meta(directory: pathlib.Path) -> dict[str, Any]:
    """Reads the item ``meta`` of a checkpoint.

    Raises:
      ValueError: It holds something else.
      OSError: It cannot be read.
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
    """To ``damaged/<step>`` of the workdir: nothing is lost, and saving can go on."""
    folder = step.parents[1] / "damaged"
    folder.mkdir(exist_ok=True)
    names = (f"{step.name}{f'-{i}' if i else ''}" for i in range(1000))
    target = next(folder / name for name in names if not (folder / name).exists())
    step.rename(target)
    LOG.warning("checkpoint %s moved to %s: %s", step, target, why)


def _note_damage(step: int, error: Exception) -> None:
    """Logs what was found; raises where the file may be sound and cannot be had."""
    if fault := next((f for f in NOT_DAMAGE if f in str(error)), ""):
        raise OSError(
            f"workdir: found {fault!r} on reading the checkpoint of step {step}, "
            "expected one that can be read; nothing was changed"
        ) from None
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    LOG.warning(
        "checkpoint of step %d cannot be read, trying the one before: %s", step, first
    )
