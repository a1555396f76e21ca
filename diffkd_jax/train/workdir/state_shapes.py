"""Compares the names, dtypes and shapes of a stored state with those of a run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from ... import __version__
from ...models.model import by_path


def shapes_by_path(tree: PyTree) -> dict[str, str]:
    """Returns the dtype and shape of each array by its path.

    Args:
      tree: arrays or their shapes.

    Returns:
      Texts such as ``float32[2, 3]``.

    >>> shapes_by_path({"a": {"b": jax.numpy.zeros((2, 3))}})
    {'a/b': 'float32[2, 3]'}
    """
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in by_path(tree).items()}


def shapes_on_disk(directory: pathlib.Path) -> dict[str, str]:
    """Returns the dtype and shape of each array of a checkpoint; reads no arrays.

    Args:
      directory: the checkpoint. If it is damaged, Orbax raises errors of several types.

    Returns:
      The same as :func:`shapes_by_path`.
    """
    metadata: Any = ocp.StandardCheckpointHandler().metadata(directory / "state")
    return shapes_by_path(metadata.tree)


def check_state_fits(
    directory: pathlib.Path,
    meta: Mapping[str, Any],
    stored: Mapping[str, str],
    expected: Mapping[str, str],
) -> None:
    """Checks whether a checkpoint that can be read holds a state of this run.

    Args:
      directory: the checkpoint, for the message.
      meta: its item ``meta``.
      stored: its dtypes and shapes by path.
      expected: those of the run.

    Raises:
      ValueError: an array differs; the message names the first one.
    """
    different = sorted(
        n for n in {*stored, *expected} if stored.get(n) != expected.get(n)
    )
    if different:
        name = different[0]
        raise ValueError(
            f"{directory}: found a state of {meta.get('version')} that does "
            f"not fit this run of {__version__}, made with another model, optimizer or "
            f"method: {name} is {stored.get(name, 'not there')}, expected "
            f"{expected.get(name, 'none')} ({len(different)} differ); choose another "
            "--workdir"
        )


def restore_target(state: PyTree) -> PyTree:
    """Returns the shapes, dtypes and shardings of a state, for Orbax to restore it.

    Args:
      state: arrays on the devices, or their shapes with shardings.

    Returns:
      The same structure of ``jax.ShapeDtypeStruct``.
    """
    # The target has shardings, so that another topology can restore the state.
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
