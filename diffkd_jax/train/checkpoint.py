"""Checkpoints of a run (Orbax) and the export of its student (safetensors)."""

import json
import logging
import pathlib
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from orbax.checkpoint import checkpoint_managers as policies
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .. import models

STUDENT_FILE = "student.safetensors"


def manager(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """Keeps the newest checkpoint and the one with the best ``top1``; atomic."""
    keep = [
        policies.LatestN(1),
        policies.BestN(get_metric_fn=lambda m: m["top1"], n=1),
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


def export_student(path: pathlib.Path, variables: dict, meta: dict[str, Any]) -> None:
    """Writes bare student variables and what is needed to rebuild the model.

    Args:
      path: target file, replaced only when the new one is complete.
      variables: ``{"params": ..., "batch_stats": ...}``.
      meta: JSON values, among them ``model``, ``options`` and ``num_classes``.
    """
    arrays = flatten_dict(jax.tree.map(np.asarray, variables), sep="/")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(arrays, partial, metadata={"diffkd_jax": json.dumps(meta)})
    partial.replace(path)


def load_student(path: str | pathlib.Path) -> tuple[Any, dict, dict[str, Any]]:
    """A bare student (or teacher) from an exported file or the workdir of a run.

    Returns:
      The Flax module, its variables as numpy arrays, and the metadata.

    Raises:
      FileNotFoundError: no such file, or a workdir without an exported student.
      ValueError: not a file of ours, or variables that do not fit the model.
    """
    path = pathlib.Path(path).expanduser()
    file = path / STUDENT_FILE if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: found nothing, expected an exported student, or the workdir of a "
            "finished run"
        )
    try:
        with safe_open(file, "numpy") as tensors:
            meta = json.loads((tensors.metadata() or {})["diffkd_jax"])
            arrays = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{file}: found no student exported by diffkd_jax: {error!r}"
        ) from None
    module = models.build(
        meta["model"], num_classes=meta["num_classes"], **meta["options"]
    )
    shape = jax.ShapeDtypeStruct((1, *meta["input_shape"]), np.float32)
    expected = flatten_dict(
        jax.eval_shape(module.init, jax.random.key(0), shape), sep="/"
    )
    found = {name: array.shape for name, array in arrays.items()}
    if found != {name: leaf.shape for name, leaf in expected.items()}:
        wrong = sorted(set(found) ^ set(expected))[:6]
        raise ValueError(
            f"{file}: found variables that are not those of {meta['model']!r} with "
            f"options {meta['options']}; the first that differ: {wrong}"
        )
    return module, unflatten_dict(arrays, sep="/"), meta
