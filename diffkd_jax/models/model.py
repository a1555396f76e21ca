"""A model of whatever library, as two pure functions and a description."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from .fold import fold
from .inputs import check_images, check_size, normalised

PyTree = Any


def keep(params: PyTree, state: dict, batch: Mapping) -> tuple[PyTree, dict]:
    """Variables as they are."""
    del batch
    return params, state


class Model(NamedTuple):
    """Two pure functions, a description, and the variables of a trained model.

    Attributes:
      init: ``(key, batch) -> (params, state)``. ``state`` is what is carried without
        gradient: a dict of collections, none of which is called ``params``.
      apply: ``(params, state, batch, *, train, key=None) -> (outputs, state)``;
        ``outputs`` are named arrays, ``key`` is for dropout and the like.
      meta: JSON values: ``model``, ``options``, ``num_classes``, ``input_shape``
        (``[h, w, c]``), and where they are known ``class_names``, ``mean``, ``std``
        (one number a channel, on the scale 0 to 1) and ``channel_order``.
      freeze: ``(params, state, batch) -> (params, state)``, the same function in
        inference by fewer operations.
      module: the Flax Linen module, where it is one.
      variables: ``{"params": params, **state}``, or None before training.
    """

    init: Callable[..., tuple[PyTree, dict]]
    apply: Callable[..., tuple[Mapping, dict]]
    meta: Mapping[str, Any] = MappingProxyType({})
    freeze: Callable[..., tuple[PyTree, dict]] = keep
    module: Any = None
    variables: Any = None

    def infer(self, variables: Mapping, batch: Mapping) -> Mapping:
        """Outputs for a batch, in inference."""
        params, state = split(variables)
        return self.apply(params, state, batch, train=False)[0]

    def __call__(self, image: Any) -> Mapping:
        """Returns the outputs of a trained model for images.

        Args:
          image: ``[b, h, w, c]``, floating point, as :meth:`normalise` gives them.

        Raises:
          ValueError: integers, other axes or channels than the model's, or of a
            classifier another size than it was trained for.
        """
        image = check_images(image, self.meta)
        if self.variables is None:
            raise ValueError(
                "model: found no variables, expected a trained model, as load_model "
                "returns it"
            )
        try:
            outputs = self.infer(self.variables, {"image": image})
        except Exception:  # of whatever library; the size may explain it
            check_size(image, self.meta, None)
            raise
        check_size(image, self.meta, outputs)
        return outputs

    def normalise(self, images: Any) -> Any:
        """Returns uint8 images as the model takes them, by its own mean and std.

        Args:
          images: ``[b, h, w, c]``, whole numbers of 0 to 255.

        Returns:
          float32 ``[b, h, w, c]``, an array of numpy or of JAX as ``images`` are.

        Raises:
          ValueError: a model that does not know its mean and std, or images of another
            type or shape.
        """
        return normalised(images, self.meta)


def split(variables: Mapping) -> tuple[PyTree, dict]:
    """``(params, state)`` of variables.

    >>> split({"params": 1, "batch_stats": 2})
    (1, {'batch_stats': 2})
    """
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def from_linen(module: nn.Module) -> Model:
    """A Flax Linen module ``(x, *, train=False) -> outputs``.

    Dropout draws from the stream ``dropout``; a module without ``train`` is called
    without it. One that takes ``size`` is given that of the batch where it has one; one
    that takes ``target`` is given the batch's while training, and then also has a
    stream ``sample``.

    Raises:
      TypeError: no Flax Linen module.

    >>> from diffkd_jax.models import build_network
    >>> model = from_linen(build_network("resnet8", num_classes=10))
    >>> batch = {"image": jax.ShapeDtypeStruct((2, 8, 8, 3), "float32")}
    >>> params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    >>> sorted(state)
    ['batch_stats']
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"found {type(module).__name__}, expected a Flax Linen module")
    takes = set(inspect.signature(type(module).__call__).parameters)

    def init(key, batch):
        # One picture: drawing does not look at it.
        image = jnp.zeros((1, *batch["image"].shape[1:]))
        options: dict[str, Any] = {}
        if "train" in takes:
            options["train"] = False
        variables = dict(module.init(key, image, **options))
        return variables.pop("params", {}), variables

    def apply(params, state, batch, *, train, key=None):
        variables = {"params": params, **state}
        options: dict[str, Any] = {"train": train} if "train" in takes else {}
        given = ["size", "target"] if train else ["size"]
        options |= {name: batch[name] for name in given if name in takes & set(batch)}
        if not train:
            return module.apply(variables, batch["image"], **options), state
        rngs = {} if key is None else {"dropout": key}
        if rngs and "target" in takes:
            rngs["sample"] = jax.random.fold_in(key, 1)
        outputs, state = module.apply(
            variables, batch["image"], mutable=list(state), rngs=rngs, **options
        )
        return outputs, dict(state)

    def freeze(params, state, batch):
        shape = batch["image"].shape[1:]
        return split(fold(module, {"params": params, **state}, shape))

    return Model(init, apply, freeze=freeze, module=module)


def from_nnx(make: Callable[..., Any]) -> Model:
    """A Flax NNX module by its constructor, ``rngs -> module``.

    The module is called with pictures ``[b, h, w, c]`` and returns named arrays; while
    it trains its ``train()`` was called, else its ``eval()``. Random streams stay out
    of what is carried and start from the key of the step.

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

    parts: Any = (nnx.Param, nnx.RngState, ...)

    # Shapes and structure alone: nothing is computed here.
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    abstract_parts: Any = nnx.split(abstract, *parts)
    graph, shapes, streams, carried = abstract_parts

    def named(tree):
        return {k.removesuffix("/value"): v for k, v in by_path(tree).items()}

    def init(key, batch):
        del batch
        drawn: Any = nnx.split(make(nnx.Rngs(key)), *parts)
        _, params, _, state = drawn
        return named(params), {"state": named(state)}

    def filled(shapes, values):
        return jax.tree.unflatten(
            jax.tree.structure(shapes), [values[name] for name in named(shapes)]
        )

    def started(key):
        """Every stream from a key of its own, counted from zero."""
        leaves, structure = jax.tree.flatten(streams)
        for i, leaf in enumerate(leaves):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                own = jax.random.fold_in(key, i)
                leaves[i] = jnp.broadcast_to(own, leaf.shape)
            else:
                leaves[i] = jnp.zeros(leaf.shape, leaf.dtype)
        return jax.tree.unflatten(structure, leaves)

    def apply(params, state, batch, *, train, key=None):
        model = nnx.merge(
            graph,
            filled(shapes, params),
            started(jax.random.key(0) if key is None else key),
            filled(carried, state["state"]),
            copy=True,
        )
        (model.train if train else model.eval)()
        outputs = model(batch["image"])
        after: Any = nnx.split(model, *parts)
        return outputs, {"state": named(after[3])} if train else state

    return Model(init, apply)


def from_equinox(make: Callable[..., Any]) -> Model:
    """An Equinox module by its constructor, ``key -> module`` or ``(module, state)``.

    The module is called with one picture ``[h, w, c]``, as Equinox has it, and
    ``key=``; of a pair, as ``equinox.nn.make_with_state`` makes it, with ``(picture,
    state, key=)``, to return ``(outputs, state)``. The axis of the batch is called
    ``batch``. In inference ``equinox.nn.inference_mode`` is on and the key is None.

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

    def parts(key):
        made = make(key)
        module, state = made if isinstance(made, tuple) else (made, None)
        arrays, static = eqx.partition(module, eqx.is_inexact_array)
        return arrays, static, state

    abstract = eqx.filter_eval_shape(parts, jax.random.key(0))
    arrays, static, carried = abstract
    names, structure = list(by_path(arrays)), jax.tree.structure(arrays)
    others, other_structure = jax.tree.flatten(static)
    leaves, carried_structure = jax.tree.flatten(carried)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in others):
        raise TypeError(
            "found arrays of integers in the module, expected them in a state "
            "(equinox.nn.make_with_state) or as numpy arrays in static fields"
        )
    has_state = carried is not None

    def init(key, batch):
        del batch
        arrays, _, state = parts(key)
        params = by_path(arrays)
        if not has_state:
            return params, {}
        values = {str(i): x for i, x in enumerate(jax.tree.leaves(state))}
        return params, {"state": values}

    def apply(params, state, batch, *, train, key=None):
        arrays = jax.tree.unflatten(structure, [params[name] for name in names])
        static = jax.tree.unflatten(other_structure, others)
        module = eqx.nn.inference_mode(eqx.combine(arrays, static), value=not train)
        image = batch["image"]
        keys = None if key is None else jax.random.split(key, len(image))
        if not has_state:
            run = lambda x, key: module(x, key=key)
            return jax.vmap(run, axis_name="batch")(image, keys), {}
        values = [state["state"][str(i)] for i in range(len(leaves))]
        before = jax.tree.unflatten(carried_structure, values)
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


def by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by the names of their paths.

    >>> by_path({"a": {"b": 1}})
    {'a/b': 1}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path): leaf for path, leaf in leaves}


def path_name(path: tuple) -> str:
    """The name of a leaf of a tree, its path with "/".

    >>> [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path({"a": {"b": 1}})]
    ['a/b']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")
