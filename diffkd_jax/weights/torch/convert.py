"""State dicts in PyTorch's layout to Flax variables and back, by rename tables."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from .names.classifiers import references
from .names.detectors import class_rows
from .names.segmenters import check_parts
from .renaming import Rename, renamed

LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "relative_position_bias_table": "attn.relative_position_bias_table",
}
# Entries that hold no weights: counters, of a profiler too, and index tables of Swin.
IGNORED = r"(num_batches_tracked|relative_position_index|attn_mask|total_(ops|params))$"


def import_state_dict(
    state_dict: Mapping[str, Any], template: Mapping, rename: Rename
) -> dict:
    """Fills a tree of Flax variables from a state dict, strictly.

    Args:
      state_dict: reference name to array, PyTorch layout; ``num_batches_tracked``
        counters are left out.
      template: variables with the wanted shapes and dtypes, arrays or
        ``jax.ShapeDtypeStruct`` (``{"params": ..., "batch_stats": ...}``).
      rename: rename table of the model, see
        :mod:`diffkd_jax.weights.torch.names.classifiers`.

    Returns:
      numpy arrays in the structure and dtypes of ``template``.

    Raises:
      ValueError: missing, unexpected or mis-shaped names, all of them listed.

    >>> template = {"params": {"head": {"bias": np.zeros(2)}}}
    >>> import_state_dict({"fc.bias": np.ones(2)}, template, (("head", "fc"),))
    {'params': {'head': {'bias': array([1., 1.])}}}
    """
    names = _names(template, rename)
    leaves, wanted_names = flatten_dict(template), set(names.values())
    missing = [name for name in names.values() if name not in state_dict]
    unexpected = [
        name
        for name in state_dict
        if name not in wanted_names and not re.search(IGNORED, name)
    ]
    filled, misshaped = {}, []
    for path, name in names.items():
        if name not in state_dict:
            continue
        array = np.asarray(state_dict[name])
        wanted = _to_torch_shape(path, leaves[path].shape)
        if array.shape != wanted:
            misshaped.append(f"{name}: found {array.shape}, expected {wanted}")
            continue
        filled[path] = _from_torch(path, array).astype(leaves[path].dtype)
    problems = _section("missing", missing) + _section("unexpected", unexpected)
    problems += _section("mis-shaped", misshaped)
    if problems:
        raise ValueError("state dict does not fit the model\n" + "\n".join(problems))
    return unflatten_dict(filled)


def import_weights(
    module: nn.Module, state_dict: Mapping[str, Any], template: Mapping
) -> tuple[dict, str]:
    """:func:`import_state_dict` under whichever reference's names fit best.

    Returns:
      The variables, and the name of the reference.

    Raises:
      ValueError: no reference defines the module, or the best does not fit.
    """
    tables = references(module)
    if not tables:
        raise ValueError(
            f"found {type(module).__name__}, which no reference defines; expected a "
            "model of diffkd_jax"
        )

    check_parts(module, state_dict, tables)

    def differences(reference: str) -> int:
        names = _names(template, tables[reference]).values()
        return len(set(names) ^ set(state_dict))

    best = min(tables, key=differences)
    return import_state_dict(state_dict, template, tables[best]), best


def count_classes(module: nn.Module, state_dict: Mapping[str, Any]) -> int:
    """Number of classes of the head in a state dict, 0 if there is no head in it.

    >>> from diffkd_jax.models import build_network
    >>> count_classes(build_network("resnet8", num_classes=1), {"fc.bias": np.zeros(7)})
    7
    """
    head, each, others = class_rows(module)
    names = [renamed(head, table) + ".bias" for table in references(module).values()]
    rows = next((len(state_dict[n]) for n in names if n in state_dict), 0)
    return max(rows // each - others, 0)


def export_state_dict(variables: Mapping, rename: Rename) -> dict[str, np.ndarray]:
    """The inverse of :func:`import_state_dict`.

    >>> export_state_dict({"params": {"head": {"bias": np.ones(2)}}}, (("head", "fc"),))
    {'fc.bias': array([1., 1.])}
    """
    leaves = flatten_dict(jax.tree.map(np.asarray, variables))
    return {
        name: _to_torch(path, leaves[path])
        for path, name in _names(variables, rename).items()
    }


def _names(variables: Mapping, rename: Rename) -> dict[tuple[str, ...], str]:
    """Reference name of each leaf; two leaves of one name are a faulty table."""
    names = {}
    for path in flatten_dict(variables):
        module = renamed("/".join(path[1:-1]), rename)
        names[path] = f"{module}.{LEAVES[path[-1]]}"
    if len(set(names.values())) != len(names):
        raise ValueError("rename table: found one name for two variables")
    return names


def _from_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _to_torch_shape(path: tuple[str, ...], shape: Iterable[int]) -> tuple[int, ...]:
    return _to_torch(path, np.broadcast_to(0, tuple(shape))).shape


def _section(title: str, lines: list[str], most: int = 12) -> list[str]:
    if not lines:
        return []
    shown = [f"  {line}" for line in lines[:most]]
    rest = [f"  ... and {len(lines) - most} more"] if len(lines) > most else []
    return [f"{title} ({len(lines)}):", *shown, *rest]
