"""Names, dtypes and shapes of a state: whether one on disk is of this run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from ... import __version__
from ...models.model import by_path


def of(tree: Any) -> dict[str, str]:
    """Dtype and shape of each array by its path.

    >>> of({"a": {"b": jax.numpy.zeros((2, 3))}})
    {'a/b': 'float32[2, 3]'}
    """
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in by_path(tree).items()}


def on_disk(directory: pathlib.Path) -> dict[str, str]:
    """The same of a checkpoint, its arrays not read; Orbax's errors if damaged."""
    metadata: Any = ocp.StandardCheckpointHandler().metadata(directory / "state")
    return of(metadata.tree)


def check_fits(
    directory: pathlib.Path,
    meta: Mapping,
    found: Mapping[str, str],
    expected: Mapping[str, str],
) -> None:
    """Refuses a sound checkpoint of another state.

    Args:
      directory: of the checkpoint, for the message.
      meta: its item ``meta``.
      found: its structure.
      expected: that of the run.

    Raises:
      ValueError: names the first array that differs.
    """
    different = sorted(
        n for n in {*found, *expected} if found.get(n) != expected.get(n)
    )
    if different:
        name = different[0]
        raise ValueError(
            f"{directory}: found a state of {meta.get('version')} that does "
            f"not fit this run of {__version__}, made with another model, optimizer or "
            f"method: {name} is {found.get(name, 'not there')}, expected "
            f"{expected.get(name, 'none')} ({len(different)} differ); choose another "
            "--workdir"
        )


def target_of(state: Any) -> Any:
    """Returns what to restore: shapes, dtypes and shardings of a state."""
    # The target must carry shardings, else another topology cannot restore it.
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
