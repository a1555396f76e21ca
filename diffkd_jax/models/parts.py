"""Files that hold a part of a model: the backbone of a network for a dense task."""

from pathlib import Path
from typing import Any

import flax.linen as nn

from .backbones import backbone_of
from .contract import Model, by_path, from_linen
from .files import is_ours, load_variables, shapes_of
from .import_torch import count_classes, import_weights
from .torch_file import read_state_dict


def load_into(file: Path, model: Model, into: str) -> tuple[dict[str, Any], set[str]]:
    """The variables in a file for a subtree of a model, or for all of it.

    Args:
      file: one that we exported, or weights of a PyTorch definition of the model or of
        the classifier whose body is ``into``, whatever its head.
      model: that they are for.
      into: path of the subtree, "" for all.

    Returns:
      The variables, and the paths of the classifier's head, which the subtree lacks.

    Raises:
      ValueError: a file that cannot be read or does not fit.
    """
    if not is_part(model.module, into):
        return load_variables(file, model.meta), set()
    shapes = lambda m: shapes_of(from_linen(m), model.meta["input_shape"])
    body, whole = (backbone_of(model.module, classes) for classes in (0, 1))
    head = set(by_path(shapes(whole))) - set(by_path(shapes(body)))
    if is_ours(file):
        return load_variables(file, model.meta), head
    state_dict = read_state_dict(file)
    name = model.meta["model"]
    if getattr(body, "deep_stem", False) and "conv2.weight" not in state_dict:
        raise ValueError(
            f"{file}: found no deep stem (conv2.weight), expected one; the option "
            f"deep_stem=False gives {name!r} a plain one"
        )
    alone = backbone_of(model.module, count_classes(whole, state_dict))
    try:
        return import_weights(alone, state_dict, shapes(alone))[0], head
    except ValueError as error:
        raise ValueError(f"{file}, as {into} of {name!r}: {error}") from None


def is_part(module: nn.Module | None, path: str) -> bool:
    """Whether a classifier's body lies at a path of a model's variables.

    >>> from diffkd_jax.models import build
    >>> is_part(build("deeplabv3_resnet8", num_classes=5), "backbone")
    True
    >>> is_part(build("resnet8", num_classes=5), "stage1")
    False
    """
    return hasattr(module, "make_backbone") and path.strip("/") == "backbone"
