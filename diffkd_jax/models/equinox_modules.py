"""Models that apply modules of Equinox."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree

from .model import Batch, Model, Outputs, by_path


def from_equinox(make: Callable[..., Any]) -> Model:
    """Returns a model that applies an Equinox module.

    As is usual in Equinox, the module is called with one image ``[h, w, c]`` and
    ``key=``. A module with state is called as ``(image, state, key=)`` and returns
    ``(outputs, state)``. The axis of the batch is called ``batch``. In inference,
    ``equinox.nn.inference_mode`` is on and the key is None.

    Args:
      make: constructor ``key -> module``, or ``key -> (module, state)`` as with
        ``equinox.nn.make_with_state``.

    Raises:
      TypeError: the module holds arrays of integers outside its state.

    >>> import equinox as eqx
    >>> class Net(eqx.Module):
    ...     head: eqx.nn.Linear
    ...     def __call__(self, x, *, key=None):
    ...         return {"logits": self.head(x.mean((0, 1)))}
    >>> model = from_equinox(lambda key: Net(eqx.nn.Linear(3, 10, key=key)))
    >>> params, state = model.init(jax.random.key(0), {})
    >>> sorted(params), state
    (['head/bias', 'head/weight'], {})
    """
    import equinox as eqx

    def make_parts(key: jax.Array) -> tuple[PyTree, PyTree, PyTree]:
        """Returns arrays and static fields of the module, and its state or None."""
        result = make(key)
        module, state = result if isinstance(result, tuple) else (result, None)
        arrays, static = eqx.partition(module, eqx.is_inexact_array)
        return arrays, static, state

    abstract = eqx.filter_eval_shape(make_parts, jax.random.key(0))
    arrays, static, initial_state = abstract
    names, structure = list(by_path(arrays)), jax.tree.structure(arrays)
    static_leaves, static_structure = jax.tree.flatten(static)
    leaves, state_structure = jax.tree.flatten(initial_state)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in static_leaves):
        raise TypeError(
            "found arrays of integers in the module, expected them in a state "
            "(equinox.nn.make_with_state) or as NumPy arrays in static fields"
        )
    has_state = initial_state is not None

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, dict[str, PyTree]]:
        del batch
        arrays, _, state = make_parts(key)
        params = by_path(arrays)
        if not has_state:
            return params, {}
        values = {str(i): x for i, x in enumerate(jax.tree.leaves(state))}
        return params, {"state": values}

    def apply(
        params: PyTree,
        state: dict[str, PyTree],
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, dict[str, PyTree]]:
        arrays = jax.tree.unflatten(structure, [params[name] for name in names])
        static = jax.tree.unflatten(static_structure, static_leaves)
        module = eqx.nn.inference_mode(eqx.combine(arrays, static), value=not train)
        image = batch["image"]
        keys = None if key is None else jax.random.split(key, len(image))
        if not has_state:
            run = lambda x, key: module(x, key=key)
            return jax.vmap(run, axis_name="batch")(image, keys), {}
        values = [state["state"][str(i)] for i in range(len(leaves))]
        before = jax.tree.unflatten(state_structure, values)
        outputs, after = jax.vmap(
            lambda x, state, key: module(x, state, key=key),
            in_axes=(0, None, None if keys is None else 0),
            out_axes=(0, None),
            axis_name="batch",
        )(image, before, keys)
        if not train:
            return outputs, state
        new = {str(i): x for i, x in enumerate(jax.tree.leaves(after))}
        return outputs, {"state": new}

    return Model(init, apply)
