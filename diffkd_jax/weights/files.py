"""Models on disk: our own exports, and weights of PyTorch definitions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.errors import FlaxError

from ..io import valid_json
from ..models import MODELS, build_network, make
from ..models.inputs import input_of
from ..models.model import Model, by_path
from .checks import cast_arrays, expand
from .file_kinds import SAFETENSORS, kind_of, shard_note, what_is_at, what_is_in
from .metadata import (
    INPUT_KEY,
    KEY,
    UNKNOWN,
    check_model_name,
    input_text,
    parse_input,
    parse_metadata,
)
from .output_files import EMA_FILE, MODEL_FILE
from .tensors import read_arrays, read_metadata, write_arrays
from .torch.convert import count_classes, export_state_dict, import_weights
from .torch.names.classifiers import references
from .torch.reader import read_state_dict

LARGE_ENOUGH = 224  # side of a picture, pixels, that every built-in model takes
# What a model raises that cannot be made with the options of a file.
BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, FlaxError, LookupError),
    *(MemoryError, RecursionError, TypeError, ValueError),
)


def build_untrained(
    name: str,
    options: dict[str, Any],
    data_meta: Mapping[str, Any],
    input_shape: tuple[int, ...],
) -> Model:
    """Builds an untrained model for data of a description.

    Args:
      name: see :func:`diffkd_jax.models.build_network`.
      options: further arguments of the model.
      data_meta: of the data; ``num_classes``, and ``class_names``, ``mean``, ``std``
        and ``channel_order`` where they are known.
      input_shape: of one picture, ``(h, w, c)``.

    Raises:
      ValueError: no such model, options that it does not take, or what is made is no
        model.

    >>> build_untrained("resnet8", {}, {"num_classes": 10}, (28, 28, 1)).meta["model"]
    'resnet8'
    """
    meta = {
        "model": name,
        "options": options,
        "num_classes": data_meta["num_classes"],
        "class_names": list(data_meta.get("class_names", ())),
        "input_shape": list(input_shape),
        **input_of(data_meta, input_shape[-1]),
    }
    try:
        # As it is read back from a file: tuples become lists.
        meta = json.loads(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"options: found {options}, expected finite numbers, texts and lists, "
            f"which a file can hold ({error})"
        ) from None
    h, w, c = input_shape
    given = {**data_meta, "channels": c, "image_size": [h, w]}
    return make(name, options, given)._replace(meta=meta)


def with_head(data_meta: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """The description of data for a model with a head of its own.

    Args:
      data_meta: of the data.
      num_classes: of the head, 0 for the classes of the data.

    >>> with_head({"num_classes": 2, "class_names": ["ant", "bee"]}, 1000)
    {'num_classes': 1000}
    """
    own = num_classes or data_meta["num_classes"]
    meta = {**data_meta, "num_classes": own}
    if own != data_meta["num_classes"]:
        meta.pop("class_names", None)
    return meta


def described(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a model's description what tells its classes and its normalisation."""
    return {field: meta[field] for field in UNKNOWN}


def export_model(path: Path, model: Model) -> None:
    """Writes variables and what is needed to rebuild the model.

    Args:
      path: target file, replaced only when the new one is complete.
      model: with variables ``{"params": ..., "batch_stats": ...}``.
    """
    arrays = {name: np.asarray(x) for name, x in by_path(model.variables).items()}
    write_arrays(path, arrays, {KEY: valid_json.dumps(model.meta)})


def export_torch(path: Path, model: Model, reference: str = "") -> str:
    """Writes the state dict that the PyTorch definition loads, as ``.safetensors``.

    Counters of batch norms are left out, which PyTorch fills in. So are Swin's index
    tables, which timm does not keep; the other definitions of Swin take the file with
    ``strict=False``.

    Args:
      path: target file, replaced only when the new one is complete.
      model: of an architecture that a reference defines.
      reference: a key of :func:`diffkd_jax.weights.torch.names.classifiers.references`;
        the first by default.

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
    metadata = {"format": "pt", INPUT_KEY: input_text(model.meta)}
    write_arrays(path, arrays, metadata)
    return reference


def load_model(path: str | Path, model: str = "") -> Model:
    """A model that we exported, from its file or the workdir of a finished run.

    Args:
      path: the file or workdir.
      model: import path of a model of your own that the file may hold,
        ``package.module:name``. A file decides among built-in models alone: to make
        another is to run code, and the name would be the file's.

    Returns:
      The model, its variables numpy arrays.

    Raises:
      FileNotFoundError: no such file, or a workdir without an exported model.
      ValueError: not a file of ours, a model that is neither built in nor ``model``, or
        variables that do not fit it.
    """
    file = model_file(path)
    meta, found = read_description(file), read_arrays(file)
    try:
        check_model_name(meta["model"], model)
        shape = meta["input_shape"]
        if meta["model"] in MODELS:  # of theirs only the channels bind
            shape = (*(min(side, LARGE_ENOUGH) for side in shape[:2]), shape[2])
        made = build_untrained(meta["model"], meta["options"], meta, tuple(shape))
        template = shapes_of(made, shape)
        arrays = cast_arrays(found, by_path(template))
    except BUILD_ERRORS as error:
        raise ValueError(f"{file}: {error or type(error).__name__}") from error
    leaves = [arrays[name] for name in by_path(template)]
    variables = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return made._replace(variables=variables, meta=meta)


def load_variables(file: Path, meta: Mapping[str, Any]) -> dict[str, Any]:
    """The variables in a file, of whatever model it describes.

    Args:
      file: one that we exported, or weights of a PyTorch definition of the model that
        ``meta`` describes, whatever its head.
      meta: of the model that they are for.

    Raises:
      ValueError: a file that cannot be read or does not fit.
    """
    if is_ours(file):
        nested: dict[str, Any] = {}
        for name, array in read_arrays(file).items():
            collection, _, path = name.partition("/")
            nested.setdefault(collection, {})[path] = array
        return nested
    shape = tuple(meta["input_shape"])
    return load_torch(file, meta["model"], meta["options"], shape)[0].variables


def read_description(file: Path) -> dict[str, Any]:
    """What :func:`export_model` wrote of the model, of a checked form.

    Raises:
      ValueError: not a file of ours.
    """
    metadata = read_metadata(file)
    try:
        return parse_metadata(metadata)
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
        :func:`diffkd_jax.weights.torch.reader.read_state_dict`.
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
    classes = count_classes(build_network(name, num_classes=1, **options), state_dict)
    if classes and num_classes not in (0, classes):
        raise ValueError(
            f"{path}: found a head of {classes} classes, expected {num_classes} "
            "(teacher.num_classes, or the classes of the data)"
        )
    # Without a head one class will do: the strict check below tells.
    model = build_untrained(name, options, {"num_classes": classes or 1}, input_shape)
    template = shapes_of(model, model.meta["input_shape"])
    try:
        variables, reference = import_weights(model.module, state_dict, template)
    except ValueError as error:
        note = shard_note(expand(path))
        raise ValueError(f"{path}, as {name!r}: {error}{note}") from None
    meta = {**model.meta, **read_input(expand(path))}
    return model._replace(variables=variables, meta=meta), reference


def read_input(file: Path) -> dict[str, Any]:
    """Returns what a file says of the images that its model takes, if it says it.

    Returns:
      ``input_shape``, ``mean``, ``std`` and ``channel_order``, or nothing.

    Raises:
      ValueError: it says what cannot be.
    """
    if kind_of(file) is not SAFETENSORS:
        return {}
    metadata = read_metadata(file)
    try:
        return parse_input(metadata)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def model_file(path: str | Path, weights: str = "") -> Path:
    """The file of a model: ``path`` itself, or the export in the workdir ``path``.

    Args:
      path: file or directory.
      weights: "ema" for the average in a directory; "" for the student itself, or for
        the average where it is alone there.

    Raises:
      FileNotFoundError: no such file; a folder of several runs names them.
      ValueError: a home directory that is not known, or a URL.
    """
    file = path = expand(path)
    if path.is_dir():
        file = path / (EMA_FILE if weights == "ema" else MODEL_FILE)
        if not file.exists() and (path / EMA_FILE).exists():
            file = path / EMA_FILE
    if file.is_file():
        return file
    inside = what_is_in(path, file.name) if path.is_dir() else ""
    if inside and what_is_at(file) == "nothing":
        raise FileNotFoundError(f"{path}: {inside}")
    raise FileNotFoundError(
        f"{file}: found {what_is_at(file)}, expected a file of weights, or the workdir "
        "of a finished run"
    )


def is_ours(file: Path) -> bool:
    """Whether :func:`export_model` wrote the file."""
    try:
        return KEY in read_metadata(file)
    except ValueError:
        return False


def is_classifier(model: Model) -> bool:
    """Returns whether a model gives one vector of logits an image.

    >>> is_classifier(build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3)))
    True
    """
    shape = model.meta["input_shape"]
    batch = {"image": jax.ShapeDtypeStruct((1, *shape), np.float32)}
    outputs = jax.eval_shape(model.infer, shapes_of(model, shape), batch)
    return getattr(outputs.get("logits"), "ndim", 0) == 2


def shapes_of(model: Model, input_shape: Sequence[int]) -> dict[str, Any]:
    """Shapes of the variables of a model, of pictures ``(h, w, c)``."""
    image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(lambda k, x: model.init(k, {"image": x}), key, image)
    return {"params": params, **state}
