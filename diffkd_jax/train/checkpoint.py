"""Checkpoints of a run (Orbax)."""

import logging
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies


def score(metrics: Mapping[str, float]) -> float:
    """What "best" goes by: ``top1``, and never a value that is not finite.

    >>> max([{"top1": float("nan")}, {"top1": 0.5}], key=score)
    {'top1': 0.5}
    """
    return metrics["top1"] if math.isfinite(metrics["top1"]) else -math.inf


def manager(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """Keeps the newest checkpoint and the one with the best ``top1``; atomic."""
    keep = [
        policies.LatestN(1),
        policies.BestN(get_metric_fn=score, n=1),
    ]
    return ocp.CheckpointManager(
        workdir.resolve() / "checkpoints",
        options=ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            enable_async_checkpointing=True,
        ),
    )


def save(
    checkpoints: ocp.CheckpointManager,
    step: int,
    state: Any,
    batches: grain.DatasetIterator,
    top1: float,
) -> None:
    """Starts writing state and data position; returns before it is on disk."""
    checkpoints.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=grain.checkpoint.CheckpointSave(batches),
        ),
        metrics={"top1": top1},
    )


def restore(
    checkpoints: ocp.CheckpointManager, state: Any, batches: grain.DatasetIterator
) -> Any | None:
    """The newest state that can be read, ``batches`` moved to its position.

    Args:
      checkpoints: from :func:`manager`.
      state: a state of the wanted structure and sharding.
      batches: iterator of the same data set, changed in place.

    Returns:
      The restored state, or None if there is no checkpoint.

    Raises:
      ValueError: checkpoints are there and none can be read.
    """
    # The target must carry shardings, else another topology cannot restore it.
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    steps = sorted(checkpoints.all_steps(), reverse=True)
    for step in steps:
        try:
            restored = checkpoints.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target),
                    data=grain.checkpoint.CheckpointRestore(batches),
                ),
            )
        except Exception as error:  # damaged files surface as many types
            logging.getLogger(__name__).warning(
                "checkpoint of step %d cannot be read, trying the one before: %s",
                step,
                error,
            )
            continue
        return restored.state
    if steps:
        raise ValueError(
            f"{checkpoints.directory}: found checkpoints {steps} and none that can be "
            "read; remove the directory to start again"
        )
    return None
