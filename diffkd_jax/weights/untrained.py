"""Models before training: built from a name and a description of the data."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..models import make
from ..models.inputs import describe_input
from ..models.model import Model


def build_untrained(
    name: str,
    options: dict[str, Any],
    data_meta: Mapping[str, Any],
    input_shape: tuple[int, ...],
) -> Model:
    """Builds an untrained model for data of a given description.

    Args:
      name: a key of :data:`diffkd_jax.models.MODELS`, or an import path.
      options: keyword arguments of the model.
      data_meta: description of the data: ``num_classes``, and ``class_names``,
        ``mean``, ``std`` and ``channel_order`` if they are known.
      input_shape: ``(h, w, c)`` of one image, in pixels.

    Raises:
      ValueError: there is no such model, the model does not take the options, or the
        import path gives something else than a model.

    >>> build_untrained("resnet8", {}, {"num_classes": 10}, (28, 28, 1)).meta["model"]
    'resnet8'
    """
    meta = {
        "model": name,
        "options": options,
        "num_classes": data_meta["num_classes"],
        "class_names": list(data_meta.get("class_names", ())),
        "input_shape": list(input_shape),
        **describe_input(data_meta, input_shape[-1]),
    }
    try:
        # Tuples become lists, as if the description were read from a file.
        meta = json.loads(json.dumps(meta, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"options: found {options}, expected finite numbers, texts and lists, "
            f"which a file can hold ({error})"
        ) from None
    h, w, c = input_shape
    facts = {**data_meta, "channels": c, "image_size": [h, w]}
    return make(name, options, facts)._replace(meta=meta)


def with_head(data_meta: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Returns a description of data with the number of classes of a model's head.

    If this number differs from that of the data, ``class_names`` is left out.

    Args:
      data_meta: description of the data.
      num_classes: number of classes of the head, or 0 for the classes of the data.

    >>> with_head({"num_classes": 2, "class_names": ["ant", "bee"]}, 1000)
    {'num_classes': 1000}
    """
    num_classes = num_classes or data_meta["num_classes"]
    meta = {**data_meta, "num_classes": num_classes}
    if num_classes != data_meta["num_classes"]:
        meta.pop("class_names", None)
    return meta


def is_classifier(model: Model) -> bool:
    """Returns whether a model gives one vector of logits for each image.

    Args:
      model: a model that describes its ``input_shape``.

    >>> is_classifier(build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3)))
    True
    """
    shape = model.meta["input_shape"]
    batch = {"image": jax.ShapeDtypeStruct((1, *shape), np.float32)}
    outputs = jax.eval_shape(model.infer, shapes_of(model, shape), batch)
    return getattr(outputs.get("logits"), "ndim", 0) == 2


def shapes_of(model: Model, input_shape: Sequence[int]) -> dict[str, PyTree]:
    """Returns the shapes and dtypes of a model's variables, without computing them.

    Args:
      model: the model.
      input_shape: ``(h, w, c)`` of one image, in pixels.

    Returns:
      ``{"params": ..., ...}`` with ``jax.ShapeDtypeStruct`` in the place of arrays.

    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> shapes_of(model, (8, 8, 3))["params"]["head"]["kernel"].shape
    (64, 10)
    """
    image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(lambda k, x: model.init(k, {"image": x}), key, image)
    return {"params": params, **state}
