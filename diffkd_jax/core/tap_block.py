"""The block of one tap, applied to a pair of outputs."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, PyTree

from .shapes import Feature
from .taps import Refined, Tap

Scalar = Float[Array, ""]
Tree = dict[str, PyTree]

FROZEN = "frozen"  # collection of the parameters that keep their initial values
# Prefixes of the values that a step reports itself. A block may not use them.
KINDS = ("loss", "weighted", "norm", "rms")


class TapBlock(nn.Module):
    """A module that applies the block of one tap to the two outputs that it names.

    The block becomes a child module, named after its class.

    Attributes:
      tap: the tap. Without a block, its outputs are compared as they are.

    >>> x = jnp.ones((2, 3))
    >>> pair, _ = TapBlock(Tap("logits", "logits")).init_with_output({}, x, x)
    >>> pair.teacher.shape
    (2, 3)
    """

    tap: Tap

    @nn.compact
    def __call__(self, student: Feature, teacher: Feature) -> Refined:
        """Returns the pair that the distance compares, with the block's own losses.

        Args:
          student: the student's tapped output.
          teacher: the teacher's tapped output; it receives no gradient.

        Raises:
          ValueError: the block returns another value than a :class:`Refined`.
        """
        teacher = jax.lax.stop_gradient(teacher)
        if self.tap.block is None:
            return Refined(student, teacher)
        # All random draws of a block depend on this name.
        name = type(self.tap.block).__name__.lower()
        out = self.tap.block.clone(parent=self, name=name)(student, teacher)
        if not all(hasattr(out, field) for field in Refined._fields):
            raise ValueError(
                f"block: found {type(out).__name__} of {name}, expected a Refined("
                "student, teacher, losses, info)"
            )
        return Refined(*(getattr(out, field) for field in Refined._fields))

    def losses(
        self, student: Feature, teacher: Feature, target: Mapping[str, PyTree] | None
    ) -> tuple[dict[str, Scalar], Tree]:
        """Returns the losses of the tap, and the arrays to report.

        Args:
          student: the student's tapped output.
          teacher: the teacher's tapped output.
          target: the target of the batch, which the distance may read.
        """
        terms, refined = self.compare(student, teacher, target)
        sizes = {"student": refined.student, "teacher": refined.teacher}
        rms = {f"rms/{side}": _rms(x) for side, x in sizes.items()}
        return terms, {**rms, **refined.info}

    def compare(
        self, student: Feature, teacher: Feature, target: Mapping[str, PyTree] | None
    ) -> tuple[dict[str, Scalar], Refined]:
        """Returns the losses of the tap, and the pair that its distance compares.

        Args:
          student: the student's tapped output.
          teacher: the teacher's tapped output.
          target: the target of the batch, which the distance may read.

        Raises:
          ValueError: a loss is not a scalar, or the block reports an array under a name
            that is reserved.
        """
        refined = self(student, teacher)
        value = self.tap.distance(refined.student, refined.teacher, target)
        terms = {**refined.losses, "distance": value}
        for name, term in terms.items():
            if jnp.shape(term):
                raise ValueError(
                    f"{name}: found shape {jnp.shape(term)}, expected a scalar"
                )
        if clash := {name.split("/")[0] for name in refined.info} & set(KINDS):
            raise ValueError(
                f"block: found info {sorted(clash)}, expected other names than {KINDS}"
            )
        return terms, refined


def split_frozen(tap: Tap, variables: Tree) -> tuple[Tree, Tree]:
    """Splits the variables of a tap's block into parameters and carried values.

    Parameters of the modules that ``block.frozen_modules`` names are carried, in the
    collection ``frozen``. A gradient of zero would not keep them: weight decay would
    still change them.

    Args:
      tap: the tap.
      variables: variables of its :class:`TapBlock`, by collection.

    Returns:
      The parameters that are trained, and the carried collections.
    """
    state = dict(variables)
    params: Tree = state.pop("params", {})
    names = getattr(tap.block, "frozen_modules", ())
    if not names:
        return params, state
    flat = flatten_dict(params)
    is_frozen = {path: path[1] in names for path in flat}  # path[0] names the block
    frozen = {path: value for path, value in flat.items() if is_frozen[path]}
    trained = {path: value for path, value in flat.items() if not is_frozen[path]}
    return unflatten_dict(trained), {**state, FROZEN: unflatten_dict(frozen)}


def join_frozen(params: Tree, state: Tree) -> Tree:
    """Returns the variables from which :func:`split_frozen` made these two.

    Args:
      params: the parameters that are trained.
      state: the carried collections.

    >>> join_frozen({"a": {"x": 1}}, {"frozen": {"a": {"y": 2}}, "batch_stats": {}})
    {'params': {'a': {'x': 1, 'y': 2}}, 'batch_stats': {}}
    """
    if FROZEN not in state:
        return {"params": params, **state}
    merged = flatten_dict(params) | flatten_dict(state[FROZEN])
    others = {name: values for name, values in state.items() if name != FROZEN}
    return {"params": unflatten_dict(merged), **others}


def refine(
    tap: Tap,
    params: Tree,
    state: Tree,
    key: Array,
    student: Feature,
    teacher: Feature,
) -> tuple[Refined, list[Float[Array, "steps b h w c"]]]:
    """Applies the block of one tap to a pair of outputs, as in training.

    Use it to look at the denoised features. It runs in training mode, so batch norm
    uses batch statistics. Updates of the state are discarded.

    Args:
      tap: the tap.
      params: ``params[name]`` of the distillation.
      state: ``state[name]`` of the distillation.
      key: random key of the noise.
      student: the student's tapped output.
      teacher: the teacher's tapped output.

    Returns:
      The refined pair, and the list of trajectories that the block has sown.
      :class:`diffkd_jax.DiffKD` sows one, ``[num_steps + 1, b, h, w, c]``: the starting
      point and the result of each DDIM step.

    >>> from diffkd_jax import distillation
    >>> tap, x = Tap("logits", "logits"), jnp.ones((2, 3))
    >>> params, state = distillation({"t": tap}).init(
    ...     jax.random.key(0), {"logits": x}, {"logits": x})
    >>> pair, trajectories = refine(
    ...     tap, params["t"], state["t"], jax.random.key(1), x, x)
    >>> pair.student.shape, trajectories
    ((2, 3), [])
    """
    refined, sown = TapBlock(tap).apply(
        join_frozen(params, state),
        student,
        teacher,
        rngs={"diffusion": key},
        mutable=[*state, "intermediates"],
    )
    flat = flatten_dict(sown.get("intermediates", {}))
    return refined, [x for path, (x, *_) in flat.items() if path[-1] == "trajectory"]


def _rms(x: jax.Array) -> jax.Array:
    """Returns the root mean square, without gradient."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    return jnp.sqrt(jnp.mean(jnp.square(x)))
