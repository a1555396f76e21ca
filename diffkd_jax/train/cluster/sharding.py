"""Makes the mesh, chooses how arrays are split over it, and compiles for it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ...backend.compiler import MANY_RUNS, compiler_options


def make_mesh(num_devices: int = 0, fsdp: int = 1) -> Mesh:
    """Makes a mesh ``[num_devices / fsdp, fsdp]`` with the axes ``data`` and ``fsdp``.

    A batch is split over both axes, large arrays of a state over ``fsdp``: see
    :func:`choose_shardings`.

    Args:
      num_devices: number of devices, the first ones of JAX's; 0 for all.
      fsdp: number of devices that share one copy of a state.

    Returns:
      The mesh.

    Raises:
      ValueError: there are fewer devices, or ``fsdp`` does not divide their number.

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
    # Devices are in the order of the processes, as are the parts of a batch. Axes are
    # Auto, because linen's Embed raises an error with explicit axes, JAX's default.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(-1, fsdp)
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole array on every device.

    Args:
      mesh: the devices.

    >>> replicated(make_mesh(1)).spec
    P()
    """
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis of an array over all devices.

    Args:
      mesh: the devices.

    >>> split_batch(make_mesh(1)).shard_shape((8, 3))
    (8, 3)
    """
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def choose_shardings(tree: PyTree, mesh: Mesh, min_bytes: int) -> PyTree:
    """Returns a sharding for each array of a state or of a teacher; moves nothing.

    Args:
      tree: arrays or their shapes.
      mesh: the devices, from :func:`make_mesh`.
      min_bytes: size in bytes from which an array is split over ``fsdp``, along its
        largest axis that the number of parts divides. Every other array is whole on
        every device.

    Returns:
      A tree of shardings.

    >>> mesh = jax.sharding.AbstractMesh((4, 2), ("data", "fsdp"))
    >>> x = np.zeros((3, 8))
    >>> choose_shardings(x, mesh, 192).spec, choose_shardings(x, mesh, 193).spec
    (P(None, 'fsdp'), P())
    """
    parts = mesh.shape["fsdp"]

    def sharding(x: Any) -> NamedSharding:
        axes = [axis for axis in range(x.ndim) if x.shape[axis] % parts == 0]
        if parts == 1 or not axes or x.size * x.dtype.itemsize < min_bytes:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, "fsdp"))

    return jax.tree.map(sharding, tree)


class Devices(NamedTuple):
    """The devices of a run, and the rule by which arrays are placed on them.

    Attributes:
      mesh: the devices, from :func:`make_mesh`.
      min_bytes: size in bytes from which an array of a state or of a teacher is split
        over ``fsdp``.

    >>> devices = Devices(make_mesh(1), min_bytes=2**20)
    >>> devices.choose_shardings({"w": np.ones(3)})["w"].spec
    P()
    """

    mesh: Mesh
    min_bytes: int

    def choose_shardings(self, tree: PyTree) -> PyTree:
        """Returns a sharding for each array, see :func:`choose_shardings`.

        Args:
          tree: arrays or their shapes.

        Returns:
          A tree of shardings.
        """
        return choose_shardings(tree, self.mesh, self.min_bytes)


def gather_arrays(tree: PyTree) -> PyTree:
    """Returns a tree of whole arrays in this process's memory.

    If there are several processes, all of them have to call it. Arrays are gathered one
    after the other, so that no device holds more than one of them whole.

    Args:
      tree: arrays, which may be sharded.

    Returns:
      The same tree of NumPy arrays.

    >>> gather_arrays({"a": jax.numpy.ones(2)})
    {'a': array([1., 1.], dtype=float32)}
    """

    def gather(x: Any) -> Any:
        if isinstance(x, jax.Array) and not (
            x.is_fully_addressable or x.is_fully_replicated
        ):
            return multihost_utils.process_allgather(x, tiled=True)
        return jax.device_get(x)

    return jax.tree.map(gather, tree)


def put_batch(batch: Mapping[str, PyTree], mesh: Mesh) -> PyTree:
    """Turns this process's part of a batch into arrays that a compiled step takes.

    With several processes the results are global arrays. With a single process they
    stay NumPy arrays, because the call of the step puts them on the devices in a
    fraction of the time.

    Args:
      batch: this process's part, arrays by name.
      mesh: the devices.

    Returns:
      The same tree.

    >>> put_batch({"index": np.arange(2)}, make_mesh(1))["index"]
    array([0, 1])
    """
    batch = jax.tree.map(np.asarray, batch)
    if jax.process_count() == 1:
        return batch
    put = partial(jax.make_array_from_process_local_data, split_batch(mesh))
    return jax.tree.map(put, batch)


def jit_step(
    step: Callable[..., Any], devices: Devices, num_steps: int = 0
) -> Callable[..., Any]:
    """Compiles a training step for devices; the call donates the state.

    State and teacher keep the shardings in which they are passed. The new state gets
    those that ``devices`` chooses, which are the same as those of the old one.

    Args:
      step: ``(state, teacher, batch, *, distill) -> (state, metrics)``.
      devices: the devices.
      num_steps: length of the run. The program of a long run may be one that is faster
        and has to be compiled at each start.

    Returns:
      ``(state, teacher, batch, distill=True) -> (state, metrics)``. It compiles one
      program for each value of ``distill``, which is passed by position.
    """

    def placed(
        state: PyTree, teacher: PyTree, batch: PyTree, distill: bool = True
    ) -> tuple[Any, ...]:
        state, metrics = step(state, teacher, batch, distill=distill)
        keep = jax.lax.with_sharding_constraint
        return keep(state, devices.choose_shardings(state)), keep(
            metrics, replicated(devices.mesh)
        )

    return jax.jit(
        placed,
        in_shardings=(None, None, split_batch(devices.mesh)),
        static_argnums=3,
        donate_argnums=0,
        compiler_options=compiler_options(many=num_steps >= MANY_RUNS),
    )


def jit_forward(forward: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles ``(variables, batch) -> results``, with whole results on every device.

    Variables keep the shardings in which they are passed.

    Args:
      forward: the function to compile.
      mesh: the devices.

    Returns:
      The compiled function.
    """
    return jax.jit(
        forward,
        in_shardings=(None, split_batch(mesh)),
        out_shardings=replicated(mesh),
        compiler_options=compiler_options(),
    )
