"""Models of any library, as two pure functions and a description."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from .fold import fold
from .images import check_images, check_size, normalise_images

Variables: TypeAlias = Mapping[str, PyTree]
Outputs: TypeAlias = Mapping[str, PyTree]
Batch: TypeAlias = Mapping[str, PyTree]


def _keep(
    params: PyTree, state: dict[str, PyTree], batch: Batch
) -> tuple[PyTree, dict[str, PyTree]]:
    """Returns the variables as they are."""
    del batch
    return params, state


class Model(NamedTuple):
    """A model: two pure functions, a description, and variables once it is trained.

    Attributes:
      init: ``(key, batch) -> (params, state)``. ``state`` is carried without gradient:
        a dict of collections, none of which is called ``params``.
      apply: ``(params, state, batch, *, train, key=None) -> (outputs, state)``;
        ``outputs`` are named arrays, ``key`` is the random key for dropout and the
        like.
      meta: JSON values: ``model``, ``options``, ``num_classes``, ``input_shape``
        (``[h, w, c]`` of an image in evaluation, which may have another size than in
        training) and, if known, ``class_names``, ``mean``, ``std`` (one number for each
        channel, on the scale 0 to 1) and ``channel_order``.
      freeze: ``(params, state, batch) -> (params, state)``. Returns variables with
        which inference computes the same in fewer operations. By default it returns
        those that it is given.
      module: the Flax Linen module if the model is one.
      variables: ``{"params": params, **state}``, or None before training.

    >>> model = Model(lambda key, batch: ({"w": 2.0}, {}),
    ...     lambda params, state, batch, *, train, key=None: (
    ...         {"logits": params["w"] * batch["image"]}, state))
    >>> model.infer({"params": {"w": 2.0}}, {"image": 3.0})
    {'logits': 6.0}
    """

    init: Callable[..., tuple[PyTree, dict[str, PyTree]]]
    apply: Callable[..., tuple[Outputs, dict[str, PyTree]]]
    meta: Mapping[str, Any] = MappingProxyType({})
    freeze: Callable[..., tuple[PyTree, dict[str, PyTree]]] = _keep
    module: Any = None
    variables: PyTree = None

    def infer(self, variables: Variables, batch: Batch) -> Outputs:
        """Returns the outputs for a batch, in inference.

        Args:
          variables: ``{"params": params, **state}``.
          batch: ``image`` ``[b, h, w, c]``, and whatever else the model reads.
        """
        params, state = split(variables)
        return self.apply(params, state, batch, train=False)[0]

    def __call__(
        self, image: Float[np.ndarray, "b h w c"] | Float[Array, "b h w c"]
    ) -> Outputs:
        """Returns the outputs of a trained model for images.

        Args:
          image: ``[b, h, w, c]``, floating point, normalised as by :meth:`normalise`.

        Raises:
          ValueError: the model is not trained; the images are integers, or have other
            axes or channels than the model's; or a classifier was evaluated on another
            size.
        """
        image = check_images(image, self.meta)
        if self.variables is None:
            raise ValueError(
                "model: found no variables, expected a trained model, as load_model "
                "returns it"
            )
        try:
            outputs = self.infer(self.variables, {"image": image})
        except Exception:  # of any library; another size may be the reason
            check_size(image, self.meta, None)
            raise
        check_size(image, self.meta, outputs)
        return outputs

    def normalise(
        self, images: Int[np.ndarray, "b h w c"] | Int[Array, "b h w c"]
    ) -> Float[np.ndarray, "b h w c"] | Float[Array, "b h w c"]:
        """Returns uint8 images as the model takes them, by its own mean and std.

        Args:
          images: ``[b, h, w, c]``, integers from 0 to 255.

        Returns:
          float32 ``[b, h, w, c]``, of NumPy or of JAX as ``images`` were.

        Raises:
          ValueError: the model does not know its mean and std, or the images have
            another type or shape.

        >>> import numpy as np
        >>> model = Model(None, None, {"mean": [0.5], "std": [0.5]})
        >>> model.normalise(np.full((1, 2, 2, 1), 255, np.uint8)).max().item()
        1.0
        """
        return normalise_images(images, self.meta)


def split(variables: Variables) -> tuple[PyTree, dict[str, PyTree]]:
    """Splits variables into ``(params, state)``.

    Args:
      variables: ``{"params": params, **state}``.

    >>> split({"params": 1, "batch_stats": 2})
    (1, {'batch_stats': 2})
    """
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def from_linen(module: nn.Module) -> Model:
    """Returns a model that applies a Flax Linen module.

    The module is called as ``(x, *, train=False) -> outputs``; ``train`` is left out if
    the module does not take it. A module that takes ``size`` is given ``batch["size"]``
    if the batch has it. A module that takes ``target`` is given ``batch["target"]`` in
    training, and may draw from the random stream ``sample``. Dropout draws from the
    stream ``dropout``.

    Args:
      module: the module, not bound to variables.

    Raises:
      TypeError: ``module`` is not a Flax Linen module.

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

    def init(key: jax.Array, batch: Batch) -> tuple[PyTree, dict[str, PyTree]]:
        # One image of zeros is enough: initial parameters do not depend on its values.
        image = jnp.zeros((1, *batch["image"].shape[1:]))
        options: dict[str, Any] = {}
        if "train" in takes:
            options["train"] = False
        variables = dict(module.init(key, image, **options))
        return variables.pop("params", {}), variables

    def apply(
        params: PyTree,
        state: dict[str, PyTree],
        batch: Batch,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[Outputs, dict[str, PyTree]]:
        variables = {"params": params, **state}
        options: dict[str, Any] = {"train": train} if "train" in takes else {}
        names = ["size", "target"] if train else ["size"]
        options |= {name: batch[name] for name in names if name in takes & set(batch)}
        if not train:
            outputs: Any = module.apply(variables, batch["image"], **options)
            return outputs, state
        rngs = {} if key is None else {"dropout": key}
        if key is not None and "target" in takes:
            rngs["sample"] = jax.random.fold_in(key, 1)
        outputs, new_state = module.apply(
            variables, batch["image"], mutable=list(state), rngs=rngs, **options
        )
        return outputs, dict(new_state)

    def freeze(
        params: PyTree, state: dict[str, PyTree], batch: Batch
    ) -> tuple[PyTree, dict[str, PyTree]]:
        shape = batch["image"].shape[1:]
        return split(fold(module, {"params": params, **state}, shape))

    return Model(init, apply, freeze=freeze, module=module)


def by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree in a flat dict, by path such as ``a/b``.

    Args:
      tree: any pytree.

    >>> by_path({"a": {"b": 1}})
    {'a/b': 1}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_path_name(path): leaf for path, leaf in leaves}


def _path_name(path: tuple[Any, ...]) -> str:
    """Returns the name of a leaf: the keys of its path, joined by "/".

    >>> [_path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path({"a": {"b": 1}})]
    ['a/b']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")
