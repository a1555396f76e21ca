"""Processes, mesh, placement of arrays, and jit with the platform's options."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..core.platform import compiler_options


def start_processes(options) -> None:
    """Joins the processes of ``config.distributed``; before any device is used.

    Raises:
      ValueError: no coordinator is named, and none is found in the environment.
    """
    if not options.enabled:
        return
    named = {}
    if options.coordinator:
        named = {
            "coordinator_address": options.coordinator,
            "num_processes": options.num_processes,
            "process_id": options.process_id,
        }
    try:
        jax.distributed.initialize(**named)
    except ValueError as error:
        raise ValueError(
            f"distributed: found no cluster to join, expected one that JAX knows or "
            f"distributed.coordinator, num_processes and process_id: {error}"
        ) from None


def is_primary() -> bool:
    """Whether this process writes files and progress for all."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the point of this name."""
    multihost_utils.sync_global_devices(name)


def everywhere(value: bool) -> bool:
    """Whether it holds on every process; all have to ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


def as_first(value: bool) -> bool:
    """What the first process says; all have to ask."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def make_mesh(num_devices: int = 0) -> Mesh:
    """A mesh with the one axis ``data``.

    Args:
      num_devices: the first so many devices, or 0 for all.

    Raises:
      ValueError: more devices than there are.

    >>> make_mesh(1).size
    1
    """
    devices = jax.devices()
    if not 0 <= num_devices <= len(devices):
        raise ValueError(
            f"num_devices: found {num_devices}, expected 0 (all) to {len(devices)}"
        )
    devices = devices[: num_devices or None]
    # Auto, since linen's Embed raises under the default of explicit axes.
    return jax.make_mesh(
        (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Global arrays from this process's part of a batch.

    Raises:
      ValueError: a batch that the devices cannot share evenly.
    """
    local = len(mesh.local_devices)
    size = len(batch["image"])
    if size % local:
        raise ValueError(
            f"data.batch_size: found {size} examples for {local} devices of a process, "
            "expected a multiple; change the batch size or set num_devices"
        )
    sharding = split_batch(mesh)
    put = lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x))
    return jax.tree.map(put, batch)


def jit_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles ``(state, teacher, batch) -> (state, metrics)``; donates the state."""
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, whole, split_batch(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def jit_forward(forward: Callable, mesh: Mesh) -> Callable:
    """Compiles ``(variables, batch) -> replicated results``."""
    whole = replicated(mesh)
    return jax.jit(
        forward,
        in_shardings=(whole, split_batch(mesh)),
        out_shardings=whole,
        compiler_options=compiler_options(),
    )


def put_replicated(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays to every device."""
    return jax.device_put(tree, replicated(mesh))
