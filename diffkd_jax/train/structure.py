"""Names, dtypes and shapes of a state: whether one on disk is of this run."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from .. import __version__
from ..models.contract import by_path

SHOWN = re.compile(r"model_state/distiller/[^/]+/gamma/[a-z]+")


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
            f"{directory}: found a state of {meta.get('version', '0.1.0')} that does "
            f"not fit this run of {__version__}, made with another model, optimizer or "
            f"method: {name} is {found.get(name, 'not there')}, expected "
            f"{expected.get(name, 'none')} ({len(different)} differ); choose another "
            "--workdir"
        )


def target_of(state: Any, found: Mapping[str, str]) -> Any:
    """What to restore: the state, or as a plain dict one of an earlier version.

    States of 0.1.0 have no seed; up to 0.2.0 they hold the gamma of the last batch.
    """
    # The target must carry shardings, else another topology cannot restore it.
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    shown = {path: kind for path, kind in found.items() if SHOWN.fullmatch(path)}
    if "seed" in found and not shown:
        return target
    whole = {k: v for k, v in vars(target).items() if k in found or k != "seed"}
    distiller = flatten_dict(target.model_state["distiller"], keep_empty_nodes=True)
    for path, kind in shown.items():
        dtype, _, shape = kind.partition("[")
        distiller[tuple(path.split("/")[2:])] = jax.ShapeDtypeStruct(
            json.loads(f"[{shape}"), dtype, sharding=state.step.sharding
        )
    whole["model_state"] = target.model_state | {"distiller": unflatten_dict(distiller)}
    return whole


def without_shown(state: Any) -> Any:
    """A state without the gamma that versions up to 0.2.0 carried."""
    distiller = flatten_dict(state.model_state["distiller"], keep_empty_nodes=True)
    kept = {path: leaf for path, leaf in distiller.items() if "gamma" not in path[1:2]}
    model_state = state.model_state | {"distiller": unflatten_dict(kept)}
    return state.replace(model_state=model_state)
