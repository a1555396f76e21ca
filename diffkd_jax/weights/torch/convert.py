"""Conversion of state dicts of PyTorch to Flax variables and back, by rename tables."""

import re
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from .names.classifiers import references
from .names.detectors import class_rows
from .names.segmenters import check_segmenter
from .renaming import Rename, rename_path

# Names of arrays in Flax, and in PyTorch.
_ARRAY_NAMES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "relative_position_bias_table": "attn.relative_position_bias_table",
}
# Entries that hold no weights: counters, of a profiler too, and index tables of Swin.
_IGNORED = (
    r"(num_batches_tracked|relative_position_index|attn_mask|total_(ops|params))$"
)


def import_state_dict(
    state_dict: Mapping[str, np.ndarray], template: Mapping[str, PyTree], table: Rename
) -> dict[str, PyTree]:
    """Fills a tree of Flax variables from a state dict whose names must all fit.

    Args:
      state_dict: arrays by the reference's names, in the layout of PyTorch. Counters
        such as ``num_batches_tracked`` and index tables are ignored.
      template: ``{"params": ..., "batch_stats": ...}``, arrays or
        ``jax.ShapeDtypeStruct`` with the expected shapes and dtypes.
      table: rename table of the model, see
        :mod:`diffkd_jax.weights.torch.names.classifiers`.

    Returns:
      NumPy arrays in the structure and dtypes of ``template``.

    Raises:
      ValueError: names are missing, unexpected or of another shape; the message lists
        them.

    >>> template = {"params": {"head": {"bias": np.zeros(2)}}}
    >>> import_state_dict({"fc.bias": np.ones(2)}, template, (("head", "fc"),))
    {'params': {'head': {'bias': array([1., 1.])}}}
    """
    names = _reference_names(template, table)
    leaves, expected_names = flatten_dict(template), set(names.values())
    missing = [name for name in names.values() if name not in state_dict]
    unexpected = [
        name
        for name in state_dict
        if name not in expected_names and not re.search(_IGNORED, name)
    ]
    filled, misshaped = {}, []
    for path, name in names.items():
        if name not in state_dict:
            continue
        array = np.asarray(state_dict[name])
        shape = _to_torch_shape(path, leaves[path].shape)
        if array.shape != shape:
            misshaped.append(f"{name}: found {array.shape}, expected {shape}")
            continue
        filled[path] = _from_torch(path, array).astype(leaves[path].dtype)
    problems = _section("missing", missing) + _section("unexpected", unexpected)
    problems += _section("mis-shaped", misshaped)
    if problems:
        raise ValueError("state dict does not fit the model\n" + "\n".join(problems))
    variables: dict[str, PyTree] = unflatten_dict(filled)
    return variables


def import_weights(
    module: nn.Module,
    state_dict: Mapping[str, np.ndarray],
    template: Mapping[str, PyTree],
) -> tuple[dict[str, PyTree], str]:
    """Fills a tree of Flax variables from a state dict of any known PyTorch definition.

    The rename tables of all references of the network are compared with the names in
    the state dict, and the one that fits best is used.

    Args:
      module: the network.
      state_dict: arrays by the reference's names, in the layout of PyTorch.
      template: the variables of the network, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The variables, see :func:`import_state_dict`, and the name of the reference.

    Raises:
      ValueError: no reference defines the module, or the best one does not fit.

    >>> from diffkd_jax.models import build_network
    >>> template = {"params": {"head": {"bias": np.zeros(2)}}}
    >>> module = build_network("resnet8", num_classes=2)
    >>> import_weights(module, {"fc.bias": np.ones(2)}, template)
    ({'params': {'head': {'bias': array([1., 1.])}}}, 'cifar')
    """
    tables = references(module)
    if not tables:
        raise ValueError(
            f"found {type(module).__name__}, which no reference defines, expected a "
            "model of diffkd_jax"
        )

    check_segmenter(module, state_dict, tables)

    def differences(reference: str) -> int:
        names = _reference_names(template, tables[reference]).values()
        return len(set(names) ^ set(state_dict))

    best = min(tables, key=differences)
    return import_state_dict(state_dict, template, tables[best]), best


def count_classes(module: nn.Module, state_dict: Mapping[str, np.ndarray]) -> int:
    """Counts the classes of the head in a state dict; 0 if the state dict has no head.

    Args:
      module: the network, with any number of classes.
      state_dict: arrays by the reference's names.

    >>> from diffkd_jax.models import build_network
    >>> count_classes(build_network("resnet8", num_classes=1), {"fc.bias": np.zeros(7)})
    7
    """
    head, rows_per_class, other_classes = class_rows(module)
    names = [
        rename_path(head, table) + ".bias" for table in references(module).values()
    ]
    rows = next((len(state_dict[n]) for n in names if n in state_dict), 0)
    return max(rows // rows_per_class - other_classes, 0)


def export_state_dict(
    variables: Mapping[str, PyTree], table: Rename
) -> dict[str, np.ndarray]:
    """Converts Flax variables to a state dict, as the inverse of the import.

    Args:
      variables: ``{"params": ..., ...}``.
      table: rename table of the model.

    Returns:
      Arrays by the reference's names, in the layout of PyTorch.

    >>> export_state_dict({"params": {"head": {"bias": np.ones(2)}}}, (("head", "fc"),))
    {'fc.bias': array([1., 1.])}
    """
    leaves = flatten_dict(jax.tree.map(np.asarray, variables))
    return {
        name: _to_torch(path, leaves[path])
        for path, name in _reference_names(variables, table).items()
    }


def _reference_names(
    variables: Mapping[str, PyTree], table: Rename
) -> dict[tuple[str, ...], str]:
    """Returns the reference's name of each array; refuses one name for two arrays."""
    names = {}
    for path in flatten_dict(variables):
        module = rename_path("/".join(path[1:-1]), table)
        names[path] = f"{module}.{_ARRAY_NAMES[path[-1]]}"
    if len(set(names.values())) != len(names):
        raise ValueError("rename table: found one name for two variables")
    return names


def _from_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Returns an array in the layout of Flax; only kernels are transposed."""
    if path[-1] != "kernel":
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _to_torch(path: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Returns an array in the layout of PyTorch; only kernels are transposed."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _to_torch_shape(path: tuple[str, ...], shape: Iterable[int]) -> tuple[int, ...]:
    """Returns the shape of an array in the layout of PyTorch."""
    return _to_torch(path, np.broadcast_to(0, tuple(shape))).shape


def _section(title: str, lines: list[str], limit: int = 12) -> list[str]:
    """Returns a part of a message: a title, the first lines, how many follow."""
    if not lines:
        return []
    shown = [f"  {line}" for line in lines[:limit]]
    rest = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return [f"{title} ({len(lines)}):", *shown, *rest]
