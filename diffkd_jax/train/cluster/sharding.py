"""Mesh, placement of arrays, and jit with the platform's options."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ...backend.compiler import compiler_options

LOG = logging.getLogger(__name__)


def make_mesh(num_devices: int = 0, fsdp: int = 1) -> Mesh:
    """A mesh of the axes ``data`` and ``fsdp``, ``[num_devices / fsdp, fsdp]``.

    A batch lies over both, large arrays of a state over ``fsdp``: see :func:`place`.

    Args:
      num_devices: the first so many devices, or 0 for all.
      fsdp: devices that share one copy of a state.

    Raises:
      ValueError: more devices than there are, or ``fsdp`` does not divide them.

    >>> dict(make_mesh(1).shape)
    {'data': 1, 'fsdp': 1}
    """
    devices = jax.devices()
    if not 0 <= num_devices <= len(devices):
        raise ValueError(
            f"num_devices: found {num_devices}, expected 0 (all) to {len(devices)}"
        )
    devices = devices[: num_devices or None]
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"mesh.fsdp: found {fsdp}, expected a divisor of the {len(devices)} devices"
        )
    # In the order of the processes, whose parts of a batch lie in theirs. Auto, since
    # linen's Embed raises under the default of explicit axes.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def place(tree: Any, mesh: Mesh, min_bytes: int) -> Any:
    """Where each array of a state, or of a teacher, lies: a tree of shardings.

    Args:
      tree: arrays or their shapes.
      mesh: from :func:`make_mesh`.
      min_bytes: an array of so many or more is split over ``fsdp``, along its largest
        axis that divides; all others are whole on every device.

    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "fsdp"))
    >>> x = np.zeros((3, 8))
    >>> place(x, mesh, 192).spec, place(x, mesh, 193).spec
    (P(None, 'fsdp'), P())
    """
    parts = mesh.shape["fsdp"]

    def one(x):
        axes = [axis for axis in range(x.ndim) if x.shape[axis] % parts == 0]
        if parts == 1 or not axes or x.size * x.dtype.itemsize < min_bytes:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(one, tree)


def gathered(tree: Any) -> Any:
    """A tree of whole arrays in this process's memory; all processes have to ask.

    One array after the other, so that no device holds more than one of them whole.
    """

    def one(x):
        if isinstance(x, jax.Array) and not (
            x.is_fully_addressable or x.is_fully_replicated
        ):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(one, tree)


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
    """What a compiled step takes, of this process's part of a batch.

    Of several processes global arrays. A single one gives arrays of the host: the call
    puts them where they belong, in a fraction of the time.
    """
    batch = jax.tree.map(np.asarray, batch)
    if jax.process_count() == 1:
        return batch
    put = partial(jax.make_array_from_process_local_data, split_batch(mesh))
    return jax.tree.map(put, batch)


def jit_step(step: Callable, mesh: Mesh, place: Callable) -> Callable:
    """Compiles ``(state, teacher, batch) -> (state, metrics)``; donates the state.

    State and teacher are taken as they lie; the new state lies as ``place`` says, which
    is where the old one did.
    """

    def placed(state, teacher, batch):
        state, metrics = step(state, teacher, batch)
        keep = jax.lax.with_sharding_constraint
        return keep(state, place(state)), keep(metrics, replicated(mesh))

    return jax.jit(
        placed,
        in_shardings=(None, None, split_batch(mesh)),
        donate_argnums=0,
        compiler_options=compiler_options(),
    )


def jit_forward(forward: Callable, mesh: Mesh) -> Callable:
    """Compiles ``(variables, batch) -> replicated results``; variables as they lie."""
    return jax.jit(
        forward,
        in_shardings=(None, split_batch(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(),
    )
