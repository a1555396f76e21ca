"""State dicts in PyTorch's layout to Flax variables and back, by rename tables.

A rename table is a tuple of ``(pattern, replacement)`` regular expressions, applied
in order to the module path of a variable (``stage1/block0/conv0``) to give the module
name of the reference (``layer1.0.conv1``). Leaf names and layouts follow one rule.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

Rename = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

LEAVES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

RESNET: Rename = (
    (r"stem/conv", "conv1"),
    (r"stem/norm", "bn1"),
    (r"stage(\d+)/block(\d+)/", r"layer\1.\2."),
    (r"shortcut_conv", "downsample.0"),
    (r"shortcut_norm", "downsample.1"),
    (r"norm(\d)", lambda m: f"bn{int(m[1]) + 1}"),
    (r"\.conv(\d)$", lambda m: f".conv{int(m[1]) + 1}"),
    (r"head", "fc"),
)

WRN: Rename = (
    (r"stem/conv", "conv1"),
    (r"stage(\d+)/block(\d+)/", r"block\1.layer.\2."),
    (r"shortcut_conv", "convShortcut"),
    (r"norm(\d)", lambda m: f"bn{int(m[1]) + 1}"),
    (r"\.conv(\d)$", lambda m: f".conv{int(m[1]) + 1}"),
    (r"final_norm", "bn1"),
    (r"head", "fc"),
)

# Blocks of the official DiffKD code; convolutions and norms share one sequence there.
_BOTTLENECK: Rename = (
    (r"/(?:conv|norm)0$", lambda m: ".block.0" if "conv" in m[0] else ".block.1"),
    (r"/(?:conv|norm)1$", lambda m: ".block.3" if "conv" in m[0] else ".block.4"),
    (r"/(?:conv|norm)2$", lambda m: ".block.6" if "conv" in m[0] else ".block.7"),
)
_DIFFKD: Rename = (
    (r"^student_projection", "trans"),
    (r"^autoencoder/encoder", "ae.encoder.0"),
    (r"^autoencoder/norm", "ae.encoder.1"),
    (r"^autoencoder/decoder", "ae.decoder.0"),
    (r"^output_projection", "proj.0"),
    (r"^output_norm", "proj.1"),
    (r"^noise_predictor/time_embedding", "model.time_embedding"),
    (r"^noise_adapter/dense", "noise_adapter.pred"),
)
DIFFKD_FEATURES: Rename = (
    *_DIFFKD,
    *_BOTTLENECK,
    (r"^noise_predictor/bottleneck(\d)", r"model.pred.\1"),
    (r"^noise_predictor/conv", "model.pred.2"),
    (r"^noise_predictor/norm", "model.pred.3"),
    (r"^noise_adapter/bottleneck", "noise_adapter.feat.0"),
)
DIFFKD_LOGITS: Rename = (
    *_DIFFKD,
    (r"^noise_predictor/conv0", "model.pred.0"),
    (r"^noise_predictor/norm0", "model.pred.1"),
    (r"^noise_predictor/conv1", "model.pred.3"),
    (r"^noise_predictor/norm1", "model.pred.4"),
    (r"^noise_predictor/conv2", "model.pred.5"),
    (r"^noise_predictor/norm2", "model.pred.6"),
    (r"^noise_predictor/conv3", "model.pred.8"),
    (r"^noise_adapter/conv0", "noise_adapter.feat.0"),
    (r"^noise_adapter/norm0", "noise_adapter.feat.1"),
    (r"^noise_adapter/conv1", "noise_adapter.feat.3"),
    (r"^noise_adapter/norm1", "noise_adapter.feat.4"),
)


def import_state_dict(
    state_dict: Mapping[str, Any], template: Mapping, rename: Rename
) -> dict:
    """Fills a tree of Flax variables from a state dict, strictly.

    Args:
      state_dict: reference name to array, PyTorch layout; ``num_batches_tracked``
        counters are left out.
      template: variables with the wanted shapes and dtypes, arrays or
        ``jax.ShapeDtypeStruct`` (``{"params": ..., "batch_stats": ...}``).
      rename: rename table of the model, such as :data:`RESNET`.

    Returns:
      numpy arrays in the structure and dtypes of ``template``.

    Raises:
      ValueError: missing, unexpected or mis-shaped names, all of them listed.

    >>> template = {"params": {"head": {"bias": np.zeros(2)}}}
    >>> import_state_dict({"fc.bias": np.ones(2)}, template, (("head", "fc"),))
    {'params': {'head': {'bias': array([1., 1.])}}}
    """
    names = _names(template, rename)
    leaves = flatten_dict(template)
    missing = [name for name in names.values() if name not in state_dict]
    unexpected = [
        name
        for name in state_dict
        if name not in set(names.values()) and not name.endswith("num_batches_tracked")
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
        module = "/".join(path[1:-1])
        for pattern, replacement in rename:
            module = re.sub(pattern, replacement, module)
        names[path] = f"{module.replace('/', '.')}.{LEAVES[path[-1]]}"
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
