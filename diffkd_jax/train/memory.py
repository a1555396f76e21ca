"""Memory that a run needs at least, by device, before anything is computed."""

import math
import os
from typing import Any

import jax

from .build import Run
from .components import batch_shapes


def least_bytes(run: Run) -> dict[str, int]:
    """Returns bytes that each device holds through a training step, by what they are.

    Activations and gradients come on top.

    Args:
      run: from :func:`diffkd_jax.train.build.build`.

    Returns:
      ``state`` (parameters, optimizer, averages), ``teacher`` and ``batch``.
    """
    teacher: Any = {}
    if run.teacher is not None:
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = batch_shapes(run.data, 1)
        params, state = jax.eval_shape(run.teacher.init, key, batch)
        plain = {"params": params, **state}
        teacher = jax.tree.map(
            lambda x, where: x.update(sharding=where), plain, run.place(plain)
        )
    share = math.ceil(run.plan.batch_size / run.mesh.size)
    return {
        "state": _bytes(run.shapes()),
        "teacher": _bytes(teacher),
        "batch": _bytes(batch_shapes(run.data, share)),
    }


def _bytes(tree: Any) -> int:
    """Returns the bytes of a tree of shapes on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        where = getattr(leaf, "sharding", None)
        shape = leaf.shape if where is None else where.shard_shape(leaf.shape)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += math.prod(shape) * leaf.dtype.itemsize
    return total


def device_bytes(run: Run) -> int:
    """Returns the memory of one of a run's devices, in bytes; 0 where it is not known.

    Devices of one CPU share its memory.
    """
    device = run.mesh.local_devices[0]
    if device.platform == "cpu":
        names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
        if not set(names) <= set(getattr(os, "sysconf_names", ())):
            return 0
        return math.prod(map(os.sysconf, names)) // len(run.mesh.local_devices)
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def check_memory(run: Run) -> None:
    """Refuses a run that cannot fit its devices.

    Raises:
      ValueError: state, teacher and batch alone are larger than a device's memory.
    """
    least, most = least_bytes(run), device_bytes(run)
    if most and sum(least.values()) > most:
        parts = ", ".join(f"{name} {gibibytes(n)}" for name, n in least.items())
        raise ValueError(
            f"num_devices: found {run.mesh.size} devices of {gibibytes(most)} for "
            f"{gibibytes(sum(least.values()))} on each ({parts}), expected less; lower "
            "data.batch_size, data.image_size or the model's width, or split large "
            "arrays with mesh.fsdp"
        )


def gibibytes(count: int) -> str:
    """Returns a number of bytes as text.

    >>> gibibytes(3 * 2**29), gibibytes(3 * 2**19)
    ('1.5 GiB', '1.5 MiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if count >= 2**power:
            return f"{count / 2**power:,.1f} {unit}"
    return f"{count / 2**10:,.1f} KiB"
