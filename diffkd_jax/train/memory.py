"""Computes the least memory that a run needs on each device, before it starts."""

import math
import os

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from .components import batch_shapes, variable_shapes
from .run import Run


def count_bytes(run: Run) -> dict[str, int]:
    """Returns the bytes that each device holds throughout a training step.

    Activations and gradients come on top.

    Args:
      run: the run.

    Returns:
      Bytes by name: ``state`` (parameters, optimizer, moving average), ``teacher`` and
      ``batch``.
    """
    teacher: PyTree = {}
    if run.teacher is not None:
        variables = variable_shapes(run.teacher, run.shapes.batch)
        teacher = jax.tree.map(
            lambda x, sharding: x.update(sharding=sharding),
            variables,
            run.devices.choose_shardings(variables),
        )
    share = math.ceil(run.plan.batch_size / run.devices.mesh.size)
    return {
        "state": _bytes(run.shapes.state),
        "teacher": _bytes(teacher),
        "batch": _bytes(batch_shapes(run.data, share)),
    }


def _bytes(tree: PyTree) -> int:
    """Returns the bytes that arrays of these shapes take on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += math.prod(shape) * leaf.dtype.itemsize
    return total


def device_bytes(mesh: Mesh) -> int:
    """Returns the memory of one device in bytes, or 0 if it is not known.

    Devices of one CPU share its memory.

    Args:
      mesh: the devices.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
        if not set(names) <= set(getattr(os, "sysconf_names", ())):
            return 0
        return math.prod(map(os.sysconf, names)) // len(mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def format_bytes(count: int) -> str:
    """Returns a number of bytes as text with one decimal, in GiB, MiB or KiB.

    Args:
      count: number of bytes.

    >>> format_bytes(3 * 2**29), format_bytes(3 * 2**19)
    ('1.5 GiB', '1.5 MiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 2**power:
            return f"{count / 2**power:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"
