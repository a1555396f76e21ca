"""What an export says about its model: JSON beside the weights, trusted in nothing."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from ..io import valid_json
from ..models import MODELS
from ..models.registry import GIVEN

KEY = "diffkd_jax"  # in the metadata of a .safetensors file
INPUT_KEY = "diffkd_jax_input"  # in that of a file for PyTorch
LARGEST_SIDE = 2**16  # of a picture, pixels; and of its channels
LARGEST_HEAD = 2**24


def parse_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Reads the description of a model from the metadata of a ``.safetensors`` file.

    Returns:
      ``model``, ``options``, ``num_classes``, ``input_shape``, ``class_names``,
      ``mean``, ``std`` (lists, empty where they are not known) and ``channel_order``
      ("" where it is not known), each of its kind. Only values: the model is not looked
      up, see :func:`check_model_name`.

    Raises:
      ValueError: none, or not of the form that our exports have.

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
    meta = _checked(metadata[KEY], FIELDS | INPUT_FIELDS)
    names, classes = meta["class_names"], meta["num_classes"]
    if names and len(names) != classes:
        raise ValueError(
            f"metadata.class_names: found {len(names)} names, expected {classes}"
        )
    return meta


def parse_input(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns what the metadata of a file say of the images that its model takes.

    Args:
      metadata: of a file of ours, or of one that ``export_weights`` wrote.

    Returns:
      ``input_shape``, ``mean``, ``std`` and ``channel_order``; nothing for other files.

    Raises:
      ValueError: they are not of the form that our files have.

    >>> parse_input({"format": "pt"})
    {}
    """
    if KEY in metadata:
        meta = parse_metadata(metadata)
        return {field: meta[field] for field in INPUT_FIELDS}
    if INPUT_KEY in metadata:
        return _checked(metadata[INPUT_KEY], INPUT_FIELDS)
    return {}


def input_text(meta: Mapping[str, Any]) -> str:
    """Returns what :func:`parse_input` reads under :data:`INPUT_KEY`."""
    return valid_json.dumps({field: meta[field] for field in INPUT_FIELDS})


def _checked(text: str, fields: Mapping[str, tuple]) -> dict[str, Any]:
    """The fields in a text of JSON, each of its kind, and no others."""
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata: found no JSON, {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"metadata: found {reprlib.repr(meta)}, expected an object")
    meta = {name: type(value)() for name, value in UNKNOWN.items()} | meta
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
            f"expected {meta['input_shape'][2]}, one a channel, or none"
        )
    return {field: meta[field] for field in fields}


def check_model_name(found: str, given: str) -> None:
    """Refuses a model that is neither built in nor named by the caller.

    Making it would import the module that a file names, which could be anybody's. What
    configs and calls of this process named before, as for training it, was named too.

    Raises:
      ValueError: it is refused.

    >>> check_model_name("resnet8", "")
    >>> check_model_name("own.net:make", "own.net:make")
    """
    if found not in MODELS and found not in GIVEN and found != given:
        raise ValueError(
            f"found the model {found[:80]!r}, which is not built in, expected "
            f"{given or 'a built-in one'!r}; a file may not say what to import. If it "
            "is your own, name it yourself: --config.teacher.model or "
            "--config.student.model, load_model(path, model=...), export_weights "
            "--model=..."
        )


def _whole(value: Any, largest: int) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and 1 <= value <= largest


def _is_shape(value: Any) -> bool:
    sides = isinstance(value, list) and len(value) == 3
    return sides and all(_whole(side, LARGEST_SIDE) for side in value)


def _is_head(value: Any) -> bool:
    return _whole(value, LARGEST_HEAD) or (type(value) is int and value == 0)


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


# What exports of earlier versions do not say.
UNKNOWN: dict[str, Any] = {
    "class_names": [],
    "mean": [],
    "std": [],
    "channel_order": "",
}
INPUT_FIELDS = {
    "input_shape": (_is_shape, f"[h, w, c], each 1 to {LARGEST_SIDE}"),
    "mean": (_is_mean, "a list of numbers 0 to 1, one a channel"),
    "std": (_is_std, "a list of numbers above 0 and up to 1, one a channel"),
    "channel_order": (_is_order, "a name of up to 32 letters, such as RGB"),
}
FIELDS = {
    "model": (lambda v: isinstance(v, str), "a name"),
    "options": (lambda v: isinstance(v, dict), "an object"),
    "num_classes": (_is_head, f"0 to {LARGEST_HEAD}"),
    "class_names": (_is_names, "a list of names"),
}
