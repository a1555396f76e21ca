"""What an export says about its model: JSON beside the weights, trusted in nothing."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from . import GIVEN, MODELS

KEY = "diffkd_jax"  # in the metadata of a .safetensors file
LARGEST_SIDE = 2**16  # of a picture, pixels; and of its channels
LARGEST_HEAD = 2**24


def parse(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The description of a model in the metadata of a ``.safetensors`` file.

    Returns:
      ``model``, ``options``, ``num_classes``, ``input_shape`` and ``class_names`` (a
      list, empty where they are not known), each of its kind. Only values: the model is
      not looked up, see :func:`check_model_name`.

    Raises:
      ValueError: none, or not of the form that our exports have.

    >>> parse({})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: found no model exported by diffkd_jax, expected one; ...
    """
    if KEY not in metadata:
        raise ValueError(
            "found no model exported by diffkd_jax, expected one; weights of PyTorch "
            "go to teacher.init, student.init or import_weights"
        )
    try:
        meta = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata: found no JSON, {error}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"metadata: found {reprlib.repr(meta)}, expected an object")
    meta.setdefault("class_names", [])
    for field, (is_good, expected) in FIELDS.items():
        value = meta.get(field)
        if not is_good(value):
            raise ValueError(
                f"metadata.{field}: found {reprlib.repr(value)}, expected {expected}"
            )
    names, classes = meta["class_names"], meta["num_classes"]
    if names and len(names) != classes:
        raise ValueError(
            f"metadata.class_names: found {len(names)} names, expected {classes}"
        )
    return {field: meta[field] for field in FIELDS}


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


FIELDS = {
    "model": (lambda v: isinstance(v, str), "a name"),
    "options": (lambda v: isinstance(v, dict), "an object"),
    "num_classes": (_is_head, f"0 to {LARGEST_HEAD}"),
    "class_names": (_is_names, "a list of names"),
    "input_shape": (_is_shape, f"[h, w, c], each 1 to {LARGEST_SIDE}"),
}
