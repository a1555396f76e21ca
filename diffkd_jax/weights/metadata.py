"""The description of a model in a file of weights: JSON of which nothing is trusted."""

import json
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from ..io import valid_json
from ..models import MODELS
from ..models.registry import USED_PATHS

KEY = "diffkd_jax"  # of the description, in the header of a file that we exported
INPUT_KEY = "diffkd_jax_input"  # in the header of a file for PyTorch
_MAX_SIDE = 2**16  # height and width of an image in pixels, and its channels
_MAX_CLASSES = 2**24
# The check of each field, and a phrase for the values that it accepts.
_Checks = Mapping[str, tuple[Callable[[Any], bool], str]]


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Reads the description of a model from the header of a ``.safetensors`` file.

    The description holds values alone. The model that it names is not looked up, see
    :func:`check_model_name`.

    Args:
      metadata: the texts in the header, by name.

    Returns:
      ``model``, ``options``, ``num_classes`` and ``input_shape`` (``[h, w, c]`` of an
      image in evaluation, which may have another size than in training);
      ``class_names``, ``mean`` and ``std``, lists that are empty if they are not known;
      and ``channel_order``, "" if it is not known. Each value is checked.

    Raises:
      ValueError: the file was not exported by this project, or a value is malformed.

    >>> parse_metadata({})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: found no model exported by diffkd_jax, expected one; ...
    """
    if KEY not in metadata:
        raise ValueError(
            "found no model exported by diffkd_jax, expected one; weights of PyTorch "
            "go to teacher.init, student.init or import_weights"
        )
    meta = _checked(metadata[KEY], {**_FIELDS, **_INPUT_FIELDS})
    names, classes = meta["class_names"], meta["num_classes"]
    if names and len(names) != classes:
        raise ValueError(
            f"metadata.class_names: found {len(names)} names, expected {classes}"
        )
    return meta


def parse_input(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Reads what the header of a file says about the images that the model takes.

    Args:
      metadata: the texts in the header, by name.

    Returns:
      ``input_shape``, ``mean``, ``std`` and ``channel_order``, if this project wrote
      the file, for itself or for PyTorch; nothing for other files.

    Raises:
      ValueError: a value is malformed.

    >>> parse_input({"format": "pt"})
    {}
    """
    if KEY in metadata:
        meta = parse_metadata(metadata)
        return {field: meta[field] for field in _INPUT_FIELDS}
    if INPUT_KEY in metadata:
        return _checked(metadata[INPUT_KEY], _INPUT_FIELDS)
    return {}


def format_input(meta: Mapping[str, Any]) -> str:
    """Returns the description of a model's images as text, for a file's header.

    It stands under :data:`INPUT_KEY`, and :func:`parse_input` reads it.

    Args:
      meta: description of a model.

    >>> meta = {"input_shape": [8, 8, 1], "mean": [0.5], "std": [0.2]}
    >>> meta["channel_order"] = "L"
    >>> parse_input({INPUT_KEY: format_input(meta)}) == meta
    True
    """
    return valid_json.dumps({field: meta[field] for field in _INPUT_FIELDS})


def _checked(text: str, fields: _Checks) -> dict[str, Any]:
    """Parses a text of JSON and returns the wanted fields, each checked."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata: found no JSON, {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"metadata: found {reprlib.repr(meta)}, expected an object")
    meta = {name: type(value)() for name, value in OPTIONAL_FIELDS.items()} | meta
    for field, (is_good, expected) in fields.items():
        value = meta.get(field)
        if not is_good(value):
            raise ValueError(
                f"metadata.{field}: found {reprlib.repr(value)}, expected {expected}"
            )
    lengths = len(meta["mean"]), len(meta["std"])
    if lengths not in ((0, 0), (meta["input_shape"][2],) * 2):
        raise ValueError(
            f"metadata: found mean and std of {lengths[0]} and {lengths[1]} numbers, "
            f"expected {meta['input_shape'][2]}, one for each channel, or none"
        )
    return {field: meta[field] for field in fields}


def check_model_name(name: str, allowed: str) -> None:
    """Raises an error if a file names a model that is neither built in nor allowed.

    Building such a model imports the module that the file names, so a file from
    somebody else could run any code. A name is also allowed if a config or call of this
    process used it before, for example to train the model.

    Args:
      name: the model that a file names.
      allowed: import path that the caller names, or "" for built-in models alone.

    Raises:
      ValueError: the model is refused.

    >>> check_model_name("resnet8", "")
    >>> check_model_name("own.net:make", "own.net:make")
    """
    if name not in MODELS and name not in USED_PATHS and name != allowed:
        raise ValueError(
            f"found the model {name[:80]!r}, which is not built in, expected "
            f"{allowed or 'a built-in one'!r}; a file may not say what to import. If "
            "it is your own, name it yourself: --config.teacher.model or "
            "--config.student.model, load_model(path, model=...), export_weights "
            "--model=..."
        )


def _is_count(value: Any, largest: int) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return is_integer and 1 <= value <= largest


def _is_shape(value: Any) -> bool:
    has_sides = isinstance(value, list) and len(value) == 3
    return has_sides and all(_is_count(side, _MAX_SIDE) for side in value)


def _is_class_count(value: Any) -> bool:
    return _is_count(value, _MAX_CLASSES) or (type(value) is int and value == 0)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_mean(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(v) for v in value)


def _is_std(value: Any) -> bool:
    return _is_mean(value) and all(value)


def _is_order(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 32 and value.isprintable()


# Fields that exports of earlier versions lack, and their values if they are not known.
OPTIONAL_FIELDS: dict[str, Any] = {
    "class_names": [],
    "mean": [],
    "std": [],
    "channel_order": "",
}
_INPUT_FIELDS: _Checks = {
    "input_shape": (_is_shape, f"[h, w, c], each 1 to {_MAX_SIDE}"),
    "mean": (_is_mean, "a list of numbers 0 to 1, one for each channel"),
    "std": (_is_std, "a list of numbers above 0 and up to 1, one for each channel"),
    "channel_order": (_is_order, "a name of up to 32 letters, such as RGB"),
}
_FIELDS: _Checks = {
    "model": (lambda v: isinstance(v, str), "a name"),
    "options": (lambda v: isinstance(v, dict), "an object"),
    "num_classes": (_is_class_count, f"0 to {_MAX_CLASSES}"),
    "class_names": (_is_names, "a list of names"),
}
