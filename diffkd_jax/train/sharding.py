"""Mesh, placement of arrays, and jit with the platform's options."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ..core.platform import compiler_options

LOG = logging.getLogger(__name__)


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
    # In the order of the processes, whose parts of a batch lie in theirs. Auto, since
    # linen's Embed raises under the default of explicit axes.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch(size: int, group: int, mesh: Mesh) -> None:
    """Whether the devices can share a batch; warns of groups that they share too.

    Args:
      size: ``data.batch_size``, over all processes.
      group: ``train.norm_group_size``, 0 for the whole batch.
      mesh: of the devices.

    Raises:
      ValueError: they cannot.
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


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> Any:
    """Global arrays from this process's part of a batch."""
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
