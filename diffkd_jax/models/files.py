"""Models on disk: our own exports, and weights of PyTorch definitions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.errors import FlaxError
from flax.traverse_util import flatten_dict, unflatten_dict

from . import MODELS, build
from .checks import expand, fit
from .import_torch import count_classes, export_state_dict, import_weights
from .metadata import KEY, check_model_name, parse
from .references import references
from .tensors import read_arrays, read_metadata, write_arrays
from .torch_file import read_state_dict

MODEL_FILE = "model.safetensors"  # in the workdir of a run
EMA_FILE = "model_ema.safetensors"  # its average, where one was kept
LARGE_ENOUGH = 224  # side of a picture, pixels, that every built-in model takes
# What a model raises that cannot be made with the options of a file.
BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, FlaxError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)


class Model(NamedTuple):
    """A module, its variables (or None before training) and its description.

    ``meta`` holds JSON values: ``model``, ``options``, ``num_classes``,
    ``input_shape`` (``[h, w, c]``), and ``class_names`` where they are known.
    """

    module: nn.Module
    variables: Any
    meta: dict[str, Any]


def describe(
    name: str,
    options: dict[str, Any],
    data_meta: Mapping[str, Any],
    input_shape: tuple[int, ...],
) -> Model:
    """An untrained model for data of a description.

    Args:
      name: see :func:`diffkd_jax.models.build`.
      options: further fields of the model.
      data_meta: ``num_classes``, and ``class_names`` where they are known.
      input_shape: of one picture, ``(h, w, c)``.

    >>> describe("resnet8", {}, {"num_classes": 10}, (28, 28, 1)).meta["model"]
    'resnet8'
    """
    num_classes = data_meta["num_classes"]
    meta = {
        "model": name,
        "options": options,
        "num_classes": num_classes,
        "class_names": list(data_meta.get("class_names", ())),
        "input_shape": list(input_shape),
    }
    # As it is read back from a file: tuples become lists.
    meta = json.loads(json.dumps(meta))
    return Model(build(name, num_classes=num_classes, **options), None, meta)


def described(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model's description, what tells its classes."""
    return {"class_names": meta["class_names"]}


def export_model(path: Path, model: Model) -> None:
    """Writes variables and what is needed to rebuild the model.

    Args:
      path: target file, replaced only when the new one is complete.
      model: with variables ``{"params": ..., "batch_stats": ...}``.
    """
    arrays = flatten_dict(jax.tree.map(np.asarray, model.variables), sep="/")
    write_arrays(path, arrays, {KEY: json.dumps(model.meta)})


def export_torch(path: Path, model: Model, reference: str = "") -> str:
    """Writes the state dict that the PyTorch definition loads, as ``.safetensors``.

    Counters of batch norms are left out, which PyTorch fills in. So are Swin's index
    tables, which timm does not keep; the other definitions of Swin take the file with
    ``strict=False``.

    Args:
      path: target file, replaced only when the new one is complete.
      model: of an architecture that a reference defines.
      reference: a key of :func:`diffkd_jax.models.references.references`; the first
        by default.

    Returns:
      The reference whose names were written.

    Raises:
      ValueError: no such reference.
    """
    tables = references(model.module)
    if not tables or reference not in ("", *tables):
        raise ValueError(
            f"reference: found {reference!r}, expected one of {list(tables)}, those "
            f"of {model.meta['model']!r}"
        )
    reference = reference or next(iter(tables))
    arrays = export_state_dict(model.variables, tables[reference])
    write_arrays(path, arrays, {"format": "pt"})
    return reference


def load_model(path: str | Path, model: str = "") -> Model:
    """A model that we exported, from its file or the workdir of a finished run.

    Args:
      path: the file or workdir.
      model: import path of a model of your own that the file may hold,
        ``package.module:name``. A file decides among built-in models alone: to make
        another is to run code, and the name would be the file's.

    Returns:
      The Flax module, its variables as numpy arrays, and the metadata.

    Raises:
      FileNotFoundError: no such file, or a workdir without an exported model.
      ValueError: not a file of ours, a model that is neither built in nor ``model``, or
        variables that do not fit it.
    """
    file = model_file(path)
    meta, found = read_description(file), read_arrays(file)
    try:
        check_model_name(meta["model"], model)
        classes, options = meta["num_classes"], meta["options"]
        module = build(meta["model"], num_classes=classes, **options)
        shape = meta["input_shape"]
        if meta["model"] in MODELS:  # of theirs only the channels bind
            shape = (*(min(side, LARGE_ENOUGH) for side in shape[:2]), shape[2])
        expected = flatten_dict(_template(module, shape), sep="/")
        arrays = fit(found, expected)
    except BUILD_ERRORS as error:
        raise ValueError(f"{file}: {error or type(error).__name__}") from error
    return Model(module, unflatten_dict(arrays, sep="/"), meta)


def read_description(file: Path) -> dict[str, Any]:
    """What :func:`export_model` wrote of the model, of a checked form.

    Raises:
      ValueError: not a file of ours.
    """
    metadata = read_metadata(file)
    try:
        return parse(metadata)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def load_torch(
    path: str | Path,
    name: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    num_classes: int = 0,
    weights: str = "",
) -> tuple[Model, str]:
    """A model with the weights of a PyTorch definition.

    Args:
      path: ``.safetensors`` or ``.pth`` file, see
        :func:`diffkd_jax.models.torch_file.read_state_dict`.
      name: a key of :data:`diffkd_jax.models.MODELS`.
      options: fields of the model.
      input_shape: of one picture, ``(h, w, c)``; only the channels bind.
      num_classes: expected number of logits, 0 for those of the file.
      weights: which of several sets, "" or "ema".

    Returns:
      The model, and the name of the reference whose names were found.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that cannot be read, or does not fit the model: names that
        are missing, unexpected or mis-shaped are listed.
    """
    state_dict = read_state_dict(path, weights)
    classes = count_classes(build(name, num_classes=1, **options), state_dict)
    if classes and num_classes not in (0, classes):
        raise ValueError(
            f"{path}: found a head of {classes} classes, expected {num_classes} "
            "(teacher.num_classes, or the classes of the data)"
        )
    # Without a head one class will do: the strict check below tells.
    model = describe(name, options, {"num_classes": classes or 1}, input_shape)
    template = _template(model.module, model.meta["input_shape"])
    try:
        variables, reference = import_weights(model.module, state_dict, template)
    except ValueError as error:
        raise ValueError(f"{path}, as {name!r}: {error}") from None
    return model._replace(variables=variables), reference


def model_file(path: str | Path, weights: str = "") -> Path:
    """The file of a model: ``path`` itself, or the export in the workdir ``path``.

    Args:
      path: file or directory.
      weights: "ema" for the average in a directory; "" for the student itself, or for
        the average where it is alone there.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a home directory that is not known.
    """
    file = path = expand(path)
    if path.is_dir():
        file = path / (EMA_FILE if weights == "ema" else MODEL_FILE)
        if not file.exists() and (path / EMA_FILE).exists():
            file = path / EMA_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: found nothing, expected a file of weights, or the workdir of a "
            "finished run"
        )
    return file


def is_ours(file: Path) -> bool:
    """Whether :func:`export_model` wrote the file."""
    try:
        return KEY in read_metadata(file)
    except ValueError:
        return False


def _template(module: nn.Module, input_shape) -> dict:
    image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)
