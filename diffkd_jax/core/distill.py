"""Distillation of named outputs: from taps to a pair of pure functions."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, PyTree

from .tap_block import Scalar, TapBlock, Tree, join_frozen, refine, split_frozen
from .taps import Refined, Tap, naming, resizing, select

__all__ = ["Distillation", "distillation", "refine"]


class Distillation(NamedTuple):
    """Pure functions, in the manner of ``optax.GradientTransformation``.

    ``params`` and ``state`` hold one entry for each block, under the name of its tap or
    the name under which taps share it. ``state`` is what a block carries without
    gradient, such as ``batch_stats``.

    Attributes:
      init: ``(key, student_out, teacher_out) -> (params, state)``. It reads only shapes
        and dtypes, so it accepts ``jax.ShapeDtypeStruct`` and tracers.
      loss: ``(params, state, key, student_out, teacher_out, target=None) -> (losses,
        state, info)``. ``losses`` is a flat dict of float32 scalars: ``<tap>/distance``
        and those of the block, such as ``<tap>/diffusion``. ``info`` holds, for each
        tap, the arrays that its block reports, and ``rms/student`` and ``rms/teacher``,
        the root mean squares of the two features that are compared.
      shapes: ``(student_out, teacher_out, target=None) -> (losses, pairs)``; computes
        nothing. ``losses`` are the shapes of the losses by name. ``pairs`` holds for
        each tap a :class:`Refined` with the shapes that its distance compares.

    >>> out = {"logits": jax.ShapeDtypeStruct((4, 10), "float32")}
    >>> kd = distillation({"kd": Tap("logits", "logits")})
    >>> losses, pairs = kd.shapes(out, out)
    >>> list(losses), pairs["kd"].student.shape
    (['kd/distance'], (4, 10))
    """

    init: Callable[..., tuple[Tree, Tree]]
    loss: Callable[..., tuple[dict[str, Scalar], Tree, dict[str, Tree]]]
    shapes: Callable[..., tuple[Tree, dict[str, Refined]]]


def distillation(taps: Mapping[str, Tap]) -> Distillation:
    """Builds a :class:`Distillation` from taps; without taps there are no losses.

    Args:
      taps: taps by name; the name becomes the prefix of the tap's losses.

    Returns:
      The functions.

    Raises:
      ValueError: ``taps`` is not a dict of :class:`Tap`, or taps share blocks that
        differ. ``init`` and ``loss`` raise it if an output is missing, if shapes cannot
        be matched, or if a block does not return :class:`Refined` or a distance does
        not return a scalar. The message names the tap.

    >>> from diffkd_jax import DiffKD
    >>> d = distillation({"logits": Tap("logits", "logits", block=DiffKD())})
    >>> out, key = {"logits": jnp.ones((4, 10))}, jax.random.key(0)
    >>> params, state = jax.eval_shape(d.init, key, out, out)  # shapes, to be quick
    >>> losses, state, info = jax.eval_shape(d.loss, params, state, key, out, out)
    >>> sorted(losses)
    ['logits/diffusion', 'logits/distance']
    """
    _check_taps(taps)
    modules = {name: TapBlock(tap) for name, tap in taps.items()}
    # One jitted program for each block. Otherwise each call would run some hundred
    # small programs.
    inits = {name: jax.jit(module.init) for name, module in modules.items()}
    keys = {name: index for index, name in enumerate(sorted(taps))}

    def init(key: Array, student_out: Tree, teacher_out: Tree) -> tuple[Tree, Tree]:
        params: Tree = {}
        state: Tree = {}
        for name, tap in taps.items():
            pair = select(name, tap, student_out, teacher_out)
            if rule := resizing(name, tap, student_out, teacher_out):
                logging.getLogger(__name__).info("tap %r: %s", name, rule)
            zeros = [jnp.zeros(x.shape, x.dtype) for x in pair]
            key_p, key_d = jax.random.split(jax.random.fold_in(key, keys[name]))
            rngs = {"params": key_p, "diffusion": key_d}
            with naming(name):
                variables = inits[name](rngs, *zeros)
            block_params, block_state = split_frozen(tap, variables)
            owner = tap.share or name
            if owner in params and _shapes(block_params) != _shapes(params[owner]):
                raise ValueError(
                    f"tap {name!r}: found parameters {_shapes(block_params)}, expected "
                    f"those of the block that it shares as {owner!r}, "
                    f"{_shapes(params[owner])}"
                )
            params.setdefault(owner, block_params)
            state.setdefault(owner, block_state)
        return params, state

    def applied(name: str, method: str) -> Callable[..., tuple[PyTree, Tree]]:
        def apply(
            params: Tree,
            state: Tree,
            key: Array,
            pair: tuple[Array, Array],
            target: PyTree,
        ) -> tuple[PyTree, Tree]:
            result, updated = modules[name].apply(
                join_frozen(params, state),
                *pair,
                target,
                rngs={"diffusion": key},
                mutable=list(state),
                method=method,
            )
            return result, {**state, **updated}

        return apply

    def loss(
        params: Tree,
        state: Tree,
        key: Array,
        student_out: Tree,
        teacher_out: Tree,
        target: Mapping[str, PyTree] | None = None,
    ) -> tuple[dict[str, Scalar], Tree, dict[str, Tree]]:
        losses: dict[str, Scalar] = {}
        info: dict[str, Tree] = {}
        state = dict(state)
        for name, tap in taps.items():
            pair = select(name, tap, student_out, teacher_out)
            owner = tap.share or name
            key_tap = jax.random.fold_in(key, keys[name])
            with naming(name):
                run = _sharded_by_compiler(applied(name, "losses"))
                (terms, arrays), state[owner] = run(
                    params[owner], state[owner], key_tap, pair, target
                )
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
            info[name] = arrays
        return losses, state, info

    def shapes(
        student_out: Tree, teacher_out: Tree, target: Mapping[str, PyTree] | None = None
    ) -> tuple[Tree, dict[str, Refined]]:
        key = jax.eval_shape(lambda: jax.random.key(0))
        params, state = jax.eval_shape(init, key, student_out, teacher_out)
        losses: Tree = {}
        pairs: dict[str, Refined] = {}
        for name, tap in taps.items():
            owner = tap.share or name
            pair = select(name, tap, student_out, teacher_out)
            compare = applied(name, "compare")
            with naming(name):
                (terms, refined), _ = jax.eval_shape(
                    compare, params[owner], state[owner], key, pair, target
                )
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
            pairs[name] = Refined(refined.student, refined.teacher)
        return losses, pairs

    return Distillation(init, loss, shapes)


def _sharded_by_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose results are replicated, on a mesh with any kind of axes.

    The gradient of a convolution has no sharding rule under the explicit axes of
    ``jax.make_mesh``, so within the function the axes are left to the compiler.
    """
    axes = jax.sharding.get_abstract_mesh().explicit_axes
    if not axes:
        return function
    sharded: Callable[..., Any] = jax.sharding.auto_axes(
        function, axes=axes, out_sharding=PartitionSpec()
    )
    return sharded


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a tree by path."""
    return {k: v.shape for k, v in flatten_dict(tree, sep="/").items()}


def _check_taps(taps: object) -> None:
    """Refuses taps that are not a dict of :class:`Tap`, or share blocks that differ."""
    if not isinstance(taps, Mapping) or not _all_are(Tap, taps.values()):
        raise ValueError(
            f"taps: found {type(taps).__name__}, expected a dict of Tap by name"
        )
    for name, tap in taps.items():
        owner = taps.get(tap.share)
        if owner is not None and owner.share != tap.share:
            raise ValueError(
                f"tap {name!r}: found share={tap.share!r}, the name of another tap, "
                "expected one of its own"
            )
        others = [t for t in taps.values() if tap.share and t.share == tap.share]
        if any(type(other.block) is not type(tap.block) for other in others):
            raise ValueError(
                f"tap {name!r}: found blocks of two kinds that share {tap.share!r}, "
                "expected one"
            )


def _all_are(kind: type, values: Iterable[object]) -> bool:
    """Returns whether all values are of one class."""
    return all(isinstance(value, kind) for value in values)
