"""Batch norms folded into convolutions, for networks that only infer."""

import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import PyTree

from .backbones.layers import ConvNorm


def fold(
    module: nn.Module, variables: dict[str, PyTree], input_shape: tuple[int, ...]
) -> dict[str, PyTree]:
    """Returns variables with which inference computes the same in fewer operations.

    The norm of each :class:`diffkd_jax.models.backbones.layers.ConvNorm` is multiplied
    into its convolution. Apply the module to the result as before, with
    ``train=False``. Other norms stay as they are, so any module may be given.

    Args:
      module: a Flax Linen module.
      variables: its ``{"params": ..., "batch_stats": ...}``.
      input_shape: ``(h, w, c)`` of one image.

    Returns:
      The variables as NumPy arrays, in the dtypes of ``variables``.

    >>> from diffkd_jax.models import build_network
    >>> model = build_network("resnet8", num_classes=2)
    >>> x = np.ones((1, 8, 8, 1), np.float32)
    >>> variables = jax.jit(model.init)(jax.random.key(0), x)
    >>> folded = fold(model, variables, (8, 8, 1))
    >>> sorted(folded["params"]["stem"]["conv"])
    ['bias', 'kernel']
    >>> a, b = (jax.jit(model.apply)(v, x)["logits"] for v in (variables, folded))
    >>> bool(np.allclose(a, b, atol=1e-5))
    True
    """
    epsilons: dict[tuple[str, ...], float] = {}

    def note_epsilon(
        method: Callable[..., Any], args: Any, kwargs: Any, context: Any
    ) -> Any:
        if isinstance(context.module, ConvNorm):
            epsilons[context.module.path] = context.module.epsilon
        return method(*args, **kwargs)

    image = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    takes_train = "train" in inspect.signature(type(module).__call__).parameters
    options: dict[str, Any] = {"train": False} if takes_train else {}
    with nn.intercept_methods(note_epsilon):
        jax.eval_shape(lambda v, x: module.apply(v, x, **options), variables, image)
    leaves = {k: np.asarray(v) for k, v in flatten_dict(variables).items()}
    for path, epsilon in epsilons.items():
        _fold_layer(leaves, path, epsilon)
    return unflatten_dict(leaves)


def _fold_layer(
    leaves: dict[Any, np.ndarray], path: tuple[str, ...], epsilon: float
) -> None:
    """Multiplies the norm of one layer into its convolution, in place."""
    pop = lambda *name: leaves.pop((name[0], *path, *name[1:]))
    scale, shift = (pop("params", "norm", name) for name in ("scale", "bias"))
    mean, var = (pop("batch_stats", "norm", name) for name in ("mean", "var"))
    kernel = leaves[("params", *path, "conv", "kernel")]
    bias = leaves.get(("params", *path, "conv", "bias"), np.zeros_like(mean))
    # float64 adds no rounding that matters.
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + epsilon)
    folded = {"kernel": kernel * factor, "bias": (bias - mean) * factor + shift}
    for name, array in folded.items():
        leaves[("params", *path, "conv", name)] = array.astype(kernel.dtype)
