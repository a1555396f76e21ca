"""Models in files: our own exports, and weights of PyTorch definitions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.errors import FlaxError
from jaxtyping import PyTree

from ..io import valid_json
from ..models import MODELS, build_network
from ..models.model import Model, by_path
from .checks import cast_arrays
from .file_kinds import shard_note
from .metadata import INPUT_KEY, KEY, check_model_name, format_input
from .output_files import write_arrays
from .paths import model_file
from .torch.convert import count_classes, export_state_dict, import_weights
from .torch.names.classifiers import references
from .torch.reader import read_state_dict
from .untrained import build_untrained, shapes_of
from .weights import Weights, is_ours, open_weights, read_description, read_input

_SUFFICIENT_SIDE = 224  # pixels; every built-in model takes such an image
# Errors of a model that cannot be made with the options of a file.
_BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, FlaxError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)


def export_model(path: Path, model: Model) -> None:
    """Writes a trained model: its variables, and what is needed to build it again.

    Args:
      path: the ``.safetensors`` file to write; it is replaced when the new one is
        complete.
      model: a model with variables.

    >>> import tempfile
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> model = model._replace(variables={"params": {"head": {"bias": np.zeros(10)}}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.safetensors")
    ...     export_model(path, model)
    ...     list(open_weights(path).arrays)
    ['params/head/bias']
    """
    arrays = {name: np.asarray(x) for name, x in by_path(model.variables).items()}
    write_arrays(path, arrays, {KEY: valid_json.dumps(model.meta)})


def export_torch(path: Path, model: Model, reference: str = "") -> str:
    """Writes a model as a ``.safetensors`` file that its PyTorch definition can load.

    The file leaves out two kinds of entries: the counters of batch norms, which PyTorch
    fills in, and the index tables of Swin. timm does not keep these tables; the other
    definitions of Swin load the file with ``strict=False``.

    Args:
      path: the file to write; it is replaced when the new one is complete.
      model: a trained model that also has a PyTorch definition.
      reference: a key of :func:`diffkd_jax.weights.torch.names.classifiers.references`,
        or "" for the first.

    Returns:
      The reference whose names were written.

    Raises:
      ValueError: the model has no such reference.

    >>> import tempfile
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> model = model._replace(variables={"params": {"head": {"bias": np.zeros(10)}}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "student.safetensors")
    ...     export_torch(path, model), list(open_weights(path).arrays)
    ('cifar', ['fc.bias'])
    """
    tables = references(model.module)
    if not tables or reference not in ("", *tables):
        raise ValueError(
            f"reference: found {reference!r}, expected one of {list(tables)}, those "
            f"of {model.meta['model']!r}"
        )
    reference = reference or next(iter(tables))
    arrays = export_state_dict(model.variables, tables[reference])
    metadata = {"format": "pt", INPUT_KEY: format_input(model.meta)}
    write_arrays(path, arrays, metadata)
    return reference


def load_model(source: str | Path | Weights, model: str = "") -> Model:
    """Loads a model that we exported.

    Args:
      source: the file, the workdir of a finished run, or weights that are open already.
      model: import path ``package.module:name`` of a model of your own that the file
        may hold, or "" for built-in models alone. To build a model is to run code, so
        the name in a file alone is not enough.

    Returns:
      The model; its variables are NumPy arrays.

    Raises:
      FileNotFoundError: there is no such file, or the workdir holds no exported model.
      ValueError: we did not export the file, its model is neither built in nor
        ``model``, or its variables do not fit the model.

    >>> import tempfile
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)
    >>> variables = jax.tree.map(zeros, shapes_of(model, (8, 8, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.safetensors")
    ...     export_model(path, model._replace(variables=variables))
    ...     load_model(path).meta["num_classes"]
    10
    """
    weights = open_weights(
        source if isinstance(source, Weights) else model_file(source)
    )
    meta = read_description(weights)
    arrays = weights.arrays
    try:
        check_model_name(meta["model"], model)
        shape = meta["input_shape"]
        if meta["model"] in MODELS:  # their variables depend on the channels alone
            sides = (min(side, _SUFFICIENT_SIDE) for side in shape[:2])
            shape = (*sides, shape[2])
        untrained = build_untrained(meta["model"], meta["options"], meta, tuple(shape))
        template = shapes_of(untrained, shape)
        arrays = cast_arrays(arrays, by_path(template))
    except _BUILD_ERRORS as error:
        reason = error or type(error).__name__
        raise ValueError(f"{weights.path}: {reason}") from error
    leaves = [arrays[name] for name in by_path(template)]
    variables = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return untrained._replace(variables=variables, meta=meta)


def load_variables(weights: Weights, meta: Mapping[str, Any]) -> dict[str, PyTree]:
    """Reads the variables in a file; its head may have any number of classes.

    Args:
      weights: an open file that we exported, of any model; or one of a PyTorch
        definition of the model that ``meta`` describes.
      meta: description of the model that the variables are for.

    Returns:
      ``{"params": ..., ...}``. Each collection is a flat dict by path for a file
      that we exported, and a nested dict for a file of a PyTorch definition.

    Raises:
      ValueError: the file cannot be read or does not fit.

    >>> import tempfile
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> model = model._replace(variables={"params": {"head": {"bias": np.zeros(1)}}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.safetensors")
    ...     export_model(path, model)
    ...     load_variables(open_weights(path), model.meta)
    {'params': {'head/bias': array([0.])}}
    """
    if is_ours(weights):
        variables: dict[str, PyTree] = {}
        for name, array in weights.arrays.items():
            collection, _, path = name.partition("/")
            variables.setdefault(collection, {})[path] = array
        return variables
    shape = tuple(meta["input_shape"])
    model, _ = load_torch(weights, meta["model"], meta["options"], shape)
    return dict(model.variables)


def load_torch(
    source: str | Path | Weights,
    name: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    num_classes: int = 0,
    weights: str = "",
) -> tuple[Model, str]:
    """Loads weights of a PyTorch definition into our model.

    Args:
      source: ``.safetensors`` or ``.pth`` file, or weights that are open already, see
        :func:`diffkd_jax.weights.torch.reader.read_state_dict`.
      name: a key of :data:`diffkd_jax.models.MODELS`.
      options: keyword arguments of the model.
      input_shape: ``(h, w, c)`` of one image; only the channels must be right.
      num_classes: expected number of logits, or 0 for as many as the file has.
      weights: which set of weights in the file: "ema" for the moving average; "" for
        the weights themselves, or for the moving average if the file holds nothing
        else.

    Returns:
      The model, and the name of the reference (PyTorch definition) that the file fits.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file cannot be read or does not fit the model. The message lists
        names that are missing, unexpected or of another shape.

    >>> import tempfile
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> zeros = lambda leaf: np.zeros(leaf.shape, leaf.dtype)
    >>> variables = jax.tree.map(zeros, shapes_of(model, (8, 8, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "student.safetensors")
    ...     _ = export_torch(path, model._replace(variables=variables))
    ...     model, reference = load_torch(path, "resnet8", {}, (8, 8, 3))
    ...     model.meta["num_classes"], reference
    (10, 'cifar')
    """
    file = open_weights(source)
    state_dict = read_state_dict(file, weights)
    classes = count_classes(build_network(name, num_classes=1, **options), state_dict)
    if classes and num_classes not in (0, classes):
        raise ValueError(
            f"{file.path}: found a head of {classes} classes, expected {num_classes} "
            "(teacher.num_classes, or the classes of the data)"
        )
    # One class is enough if the file has no head; import_weights then refuses it.
    model = build_untrained(name, options, {"num_classes": classes or 1}, input_shape)
    template = shapes_of(model, model.meta["input_shape"])
    try:
        variables, reference = import_weights(model.module, state_dict, template)
    except ValueError as error:
        note = shard_note(file.path)
        raise ValueError(f"{file.path}, as {name!r}: {error}{note}") from None
    meta = {**model.meta, **read_input(file)}
    return model._replace(variables=variables, meta=meta), reference
