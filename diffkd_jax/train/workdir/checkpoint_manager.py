"""Opens the folder of a run's checkpoints, and decides which are kept (Orbax)."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orbax.checkpoint as ocp

from ...tasks import Task
from ..cluster import processes
from .directory import read_json_object

LOG = logging.getLogger(__name__)
NEWEST = 2  # the newest checkpoint, and one to fall back to
# Orbax writes both files at the end of a save.
COMMITTED = ("commit_success.txt", "_CHECKPOINT_METADATA")
NO_HISTORY: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


class _KeepBestAndNewest:
    """A policy for Orbax that keeps the best checkpoint and the newest two."""

    def __init__(
        self, directory: pathlib.Path, task: Task, history: Mapping[int, Any]
    ) -> None:
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
            return read_meta(self.directory / str(info.step))["scores"]
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


def open_checkpoints(
    workdir: pathlib.Path,
    task: Task,
    history: Mapping[int, Mapping[str, Any]] = NO_HISTORY,
) -> ocp.CheckpointManager:
    """Opens the checkpoints of a run; moves those whose save did not finish aside.

    The manager keeps the newest two checkpoints, and the best one by the task's
    headline.

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
                move_aside(step, "it was not finished")
    processes.wait_for_all("unfinished checkpoints are aside")
    return _Manager(
        directory,
        options=ocp.CheckpointManagerOptions(
            preservation_policy=_KeepBestAndNewest(directory, task, history),
            enable_async_checkpointing=True,
        ),
    )


def read_meta(directory: pathlib.Path) -> dict[str, Any]:
    """Reads the item ``meta`` of a checkpoint.

    Args:
      directory: the folder of the checkpoint.

    Returns:
      ``scores``, ``checksum``, ``version``, and ``pending`` if some metrics were not in
      the log yet.

    Raises:
      ValueError: it is not JSON with scores and a checksum.
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


def move_aside(checkpoint: pathlib.Path, reason: str) -> None:
    """Moves a checkpoint to ``damaged/<step>`` of the workdir; deletes nothing.

    Args:
      checkpoint: the folder of the checkpoint.
      reason: why it cannot be used, for the log.
    """
    folder = checkpoint.parents[1] / "damaged"
    folder.mkdir(exist_ok=True)
    names = (f"{checkpoint.name}{f'-{i}' if i else ''}" for i in range(1000))
    target = next(folder / name for name in names if not (folder / name).exists())
    checkpoint.rename(target)
    LOG.warning("checkpoint %s moved to %s: %s", checkpoint, target, reason)
