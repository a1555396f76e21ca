"""Variables of a file for a model, or for its backbone alone."""

import flax.linen as nn
from jaxtyping import PyTree

from ..models.dense.backbone import backbone_of
from ..models.model import Model, by_path, from_linen
from .files import load_variables
from .torch.convert import count_classes, import_weights
from .torch.reader import read_state_dict
from .untrained import shapes_of
from .weights import Weights, is_ours


def load_into(
    weights: Weights, model: Model, into: str
) -> tuple[dict[str, PyTree], set[str]]:
    """Reads the variables for a model, or for its backbone alone, from a file.

    Args:
      weights: an open file that we exported, or one of a PyTorch definition of the
        model. If ``into`` is the backbone, a PyTorch file holds the classifier that has
        this backbone. The head may have any number of classes.
      model: the model that the variables are for.
      into: path of the part of the model that receives the variables, such as
        ``backbone``, or "" for all of the model.

    Returns:
      The variables; and the paths that the file may hold although the subtree lacks
      them: those of the classifier's head.

    Raises:
      ValueError: the file cannot be read or does not fit.

    >>> import tempfile, pathlib, numpy as np
    >>> from .files import export_model
    >>> from .untrained import build_untrained
    >>> from .weights import open_weights
    >>> model = build_untrained("resnet8", {}, {"num_classes": 10}, (8, 8, 3))
    >>> model = model._replace(variables={"params": {"head": {"bias": np.zeros(1)}}})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     export_model(path, model)
    ...     load_into(open_weights(path), model, "")
    ({'params': {'head/bias': array([0.])}}, set())
    """
    if not _is_backbone(model.module, into):
        return load_variables(weights, model.meta), set()
    shapes = lambda module: shapes_of(from_linen(module), model.meta["input_shape"])
    body, classifier = (backbone_of(model.module, classes) for classes in (0, 1))
    head = set(by_path(shapes(classifier))) - set(by_path(shapes(body)))
    if is_ours(weights):
        return load_variables(weights, model.meta), head
    state_dict = read_state_dict(weights)
    name = model.meta["model"]
    if getattr(body, "deep_stem", False) and "conv2.weight" not in state_dict:
        raise ValueError(
            f"{weights.path}: found no deep stem (conv2.weight), expected one; the "
            f"option deep_stem=False gives {name!r} a plain one"
        )
    classifier = backbone_of(model.module, count_classes(classifier, state_dict))
    try:
        return import_weights(classifier, state_dict, shapes(classifier))[0], head
    except ValueError as error:
        raise ValueError(f"{weights.path}, as {into} of {name!r}: {error}") from None


def _is_backbone(module: nn.Module | None, path: str) -> bool:
    """Returns whether a path is that of the backbone in a network for dense tasks.

    Args:
      module: the Flax module of the model, or None for a model of another library.
      path: a path in the model's variables.

    >>> from diffkd_jax.models import build_network
    >>> _is_backbone(build_network("deeplabv3_resnet8", num_classes=5), "backbone")
    True
    >>> _is_backbone(build_network("resnet8", num_classes=5), "stage1")
    False
    """
    return hasattr(module, "make_backbone") and path.strip("/") == "backbone"
