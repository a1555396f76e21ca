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
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ... import __version__
from ...io import valid_json
from ..cluster import processes, sharding
from . import state_shapes
from .checkpoint_manager import move_aside, read_meta

LOG = logging.getLogger(__name__)
# Errors of the machine, which do not mean that a file is damaged.
MACHINE_ERRORS = (MemoryError, jax.errors.JaxRuntimeError)
# More of them: texts of the operating system, which every library includes in its
# messages.
MACHINE_TEXTS = [
    os.strerror(code)
    for code in (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.EPERM, errno.ESTALE)
]


def save_checkpoint(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: PyTree,
    scores: Mapping[str, Any],
    pending: Iterable[tuple[int, Mapping[str, Any]]] = (),
) -> None:
    """Starts to write a checkpoint; returns before it is on disk.

    Args:
      checkpoints: from
        :func:`diffkd_jax.train.workdir.checkpoint_manager.open_checkpoints`.
      step: number of updates done.
      state: the state on the devices.
      scores: the student's scores by name; {} if it was not evaluated.
      pending: steps that are not in the log yet, with their metrics.

    Raises:
      ValueError: the step was not saved, because there is a later checkpoint.
    """
    scored = {k: float(v) if np.isfinite(v) else None for k, v in scores.items()}
    meta = {
        "scores": scored,
        "version": __version__,
        "checksum": compute_checksum(state),
    }
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
    """Returns the newest state that can be read, and moves damaged later ones aside.

    Args:
      checkpoints: from
        :func:`diffkd_jax.train.workdir.checkpoint_manager.open_checkpoints`.
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
                    move_aside(directory / str(other), "it is damaged")
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
    """Returns the state of a step; None, on all processes, if any cannot read it."""
    directory = pathlib.Path(checkpoints.directory) / str(step)
    restored, stored_shapes = None, {}
    try:
        meta = read_meta(directory)
        stored_shapes = state_shapes.shapes_on_disk(directory)
    except MACHINE_ERRORS:
        raise
    except Exception as error:  # Orbax has no error type for damaged files
        _note_damage(step, error)
    # All processes decide together, because they restore together.
    if not processes.is_true_everywhere(bool(stored_shapes)):
        return None
    target = state_shapes.restore_target(state)
    shapes = state_shapes.shapes_by_path(target)
    state_shapes.check_state_fits(directory, meta, stored_shapes, shapes)
    try:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        restored = checkpoints.restore(step, args=args).state
    except MACHINE_ERRORS:
        raise
    except Exception as error:  # Orbax raises TensorStore's errors as this type
        _note_damage(step, error)
        restored = None
    # The checksum needs the parts of all processes.
    is_restored = processes.is_true_everywhere(restored is not None)
    if restored is None or not is_restored:
        return None
    try:
        if compute_checksum(restored) != meta["checksum"]:
            raise ValueError("its checksum differs")
        if (stored_step := int(restored.step)) != step:
            raise ValueError(f"it holds step {stored_step}")
    except ValueError as error:
        _note_damage(step, error)
        restored = None
    return restored if processes.is_true_everywhere(restored is not None) else None


def read_pending(
    checkpoints: ocp.CheckpointManager, step: int
) -> list[tuple[int, Mapping[str, Any]]]:
    """Returns the metrics that were not yet logged when a checkpoint was saved.

    Args:
      checkpoints: from
        :func:`diffkd_jax.train.workdir.checkpoint_manager.open_checkpoints`.
      step: step of the checkpoint.

    Returns:
      Steps with their metrics, in order. Empty, with a warning, if they cannot be read.
    """
    directory = pathlib.Path(checkpoints.directory) / str(step)
    try:
        return [
            (int(i), {k: np.asarray(v, np.float32) for k, v in row.items()})
            for i, row in read_meta(directory).get("pending", [])
        ]
    except (AttributeError, TypeError, ValueError) as error:
        LOG.warning("%s: metrics to be logged are left out: %s", directory, error)
        return []


def compute_checksum(tree: PyTree) -> int:
    """Returns the CRC-32 of all arrays of a tree, in the tree's order.

    If there are several processes, all of them have to call it.

    Args:
      tree: arrays, which may be sharded.

    Returns:
      The checksum, 0 to 2**32 - 1.

    >>> compute_checksum({"a": np.zeros(2)}) != compute_checksum({"a": -np.zeros(2)})
    True
    """
    value = 0
    for leaf in jax.tree.leaves(tree):
        array = np.ascontiguousarray(sharding.gather_arrays(leaf))
        value = zlib.crc32(array.view(np.uint8).data, value)
    return value


def _note_damage(step: int, error: Exception) -> None:
    """Logs why a checkpoint is damaged; raises OSError if the machine is at fault."""
    if fault := next((f for f in MACHINE_TEXTS if f in str(error)), ""):
        raise OSError(
            f"workdir: found {fault!r} on reading the checkpoint of step {step}, "
            "expected one that can be read; nothing was changed"
        ) from None
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    LOG.warning(
        "checkpoint of step %d cannot be read, trying the one before: %s", step, first
    )
