"""Models that apply modules of Flax NNX."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .model import Batch, Model, Outputs, by_path


def from_nnx(make: Callable[..., Any]) -> Model:
    """Returns a model that applies a Flax NNX module.

    The module is called with images ``[b, h, w, c]`` and returns named arrays. Its
    ``train()`` is called before training steps, its ``eval()`` before inference. Random
    streams are not part of the state; they start from the key of each step.

    Args:
      make: constructor ``rngs -> module``.

    >>> from flax import nnx
    >>> class Net(nnx.Module):
    ...     def __init__(self, rngs):
    ...         self.head = nnx.Linear(3, 10, rngs=rngs)
    ...     def __call__(self, x):
    ...         return {"logits": self.head(x.mean((1, 2)))}
    >>> model = from_nnx(lambda rngs: Net(rngs))
    >>> params, state = model.init(jax.random.key(0), {})
    >>> model.apply(params, state, {"image": jnp.ones((2, 4, 4, 3))},
    ...     train=True)[0]["logits"].shape
    (2, 10)
    """
    from flax import nnx

    kinds: Any = (nnx.Param, nnx.RngState, ...)

    # This computes no values, only shapes and structure.
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    abstract_parts: Any = nnx.split(abstract, *kinds)
    graph, param_shapes, streams, state_shapes = abstract_parts

    def by_name(tree: PyTree) -> dict[str, Any]:
        return {k.removesuffix("/value"): v for k, v in by_path(tree).items()}

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, dict[str, PyTree]]:
        del batch
        parts: Any = nnx.split(make(nnx.Rngs(key)), *kinds)
        _, params, _, state = parts
        return by_name(params), {"state": by_name(state)}

    def unflatten(shapes: PyTree, values: Mapping[str, Any]) -> PyTree:
        return jax.tree.unflatten(
            jax.tree.structure(shapes), [values[name] for name in by_name(shapes)]
        )

    def start_streams(key: jax.Array) -> PyTree:
        """Gives each random stream its own key, and sets its count to zero."""
        leaves, structure = jax.tree.flatten(streams)
        for i, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                stream_key = jax.random.fold_in(key, i)
                leaves[i] = jnp.broadcast_to(stream_key, leaf.shape)
            else:
                leaves[i] = jnp.zeros(leaf.shape, leaf.dtype)
        return jax.tree.unflatten(structure, leaves)

    def apply(
        params: PyTree,
        state: dict[str, PyTree],
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, dict[str, PyTree]]:
        model = nnx.merge(
            graph,
            unflatten(param_shapes, params),
            start_streams(jax.random.key(0) if key is None else key),
            unflatten(state_shapes, state["state"]),
            copy=True,
        )
        (model.train if train else model.eval)()
        outputs = model(batch["image"])
        after: Any = nnx.split(model, *kinds)
        return outputs, {"state": by_name(after[3])} if train else state

    return Model(init, apply)
