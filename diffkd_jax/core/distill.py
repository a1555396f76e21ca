"""Distillation of named outputs: taps, and a pair of pure functions over them."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec

from .taps import Refined, Tap, naming, resizing, select

# Of what a step reports beside a block's info.
KINDS = ("loss", "weighted", "norm", "rms")


class Distillation(NamedTuple):
    """A pair of pure functions, in the manner of ``optax.GradientTransformation``.

    Attributes:
      init: ``(key, student_out, teacher_out) -> (params, state)``; reads shapes and
        dtypes only, so ``jax.ShapeDtypeStruct`` will do, and so will tracers.
      loss: ``(params, state, key, student_out, teacher_out, target=None) ->
        (losses, state, info)``. ``losses`` is a flat dict of float32 scalars named
        ``<tap>/distance`` and, as the block has them, ``<tap>/diffusion`` and so on.
        ``info`` is what the blocks show of themselves, arrays by name by tap, beside
        ``rms/student`` and ``rms/teacher``, root mean squares of what is compared.

    ``params`` and ``state`` hold those of each block by the name of its tap, or by the
    name that taps share; ``state`` is what a block carries without gradient, such as
    ``batch_stats``.
    """

    init: Callable[..., tuple[dict, dict]]
    loss: Callable[..., tuple[dict[str, jax.Array], dict, dict[str, dict]]]


def distillation(taps: Mapping[str, Tap]) -> Distillation:
    """Turns taps into a :class:`Distillation`; no taps, no losses.

    Args:
      taps: tap by name; the name prefixes its losses.

    Raises:
      ValueError: taps that are no dict of :class:`Tap`, or share what they cannot. At
        ``init`` or ``loss``: an output that is not there, shapes that cannot match, a
        block or distance that returns something else; the message names the tap.

    >>> from diffkd_jax import DiffKD
    >>> d = distillation({"logits": Tap("logits", "logits", block=DiffKD())})
    >>> out, key = {"logits": jnp.ones((4, 10))}, jax.random.key(0)
    >>> params, state = jax.eval_shape(d.init, key, out, out)  # shapes, to be quick
    >>> losses, state, info = jax.eval_shape(d.loss, params, state, key, out, out)
    >>> sorted(losses)
    ['logits/diffusion', 'logits/distance']
    """
    _check_taps(taps)
    modules = {name: _Pair(tap) for name, tap in taps.items()}
    # One program each, else some hundred small ones, traced once for all calls.
    inits = {name: jax.jit(module.init) for name, module in modules.items()}
    keys = {name: index for index, name in enumerate(sorted(taps))}

    def init(key, student_out, teacher_out):
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        for name, tap in taps.items():
            pair = select(name, tap, student_out, teacher_out)
            if rule := resizing(name, tap, student_out, teacher_out):
                logging.getLogger(__name__).info("tap %r: %s", name, rule)
            pair = tuple(jnp.zeros(x.shape, x.dtype) for x in pair)
            key_p, key_d = jax.random.split(jax.random.fold_in(key, keys[name]))
            rngs = {"params": key_p, "diffusion": key_d}
            with naming(name):
                variables = dict(inits[name](rngs, *pair))
            own, place = variables.pop("params", {}), tap.share or name
            if place in params and _shapes(own) != _shapes(params[place]):
                raise ValueError(
                    f"tap {name!r}: found parameters {_shapes(own)}, expected those of "
                    f"the block that it shares as {place!r}, {_shapes(params[place])}"
                )
            params.setdefault(place, own)
            state.setdefault(place, variables)
        return params, state

    def loss(params, state, key, student_out, teacher_out, target=None):
        losses: dict[str, jax.Array] = {}
        info: dict[str, dict[str, jax.Array]] = {}
        state = dict(state)
        for name, tap in taps.items():
            pair, place = select(name, tap, student_out, teacher_out), tap.share or name

            def run(params, state, key, pair, target, name=name):
                (terms, shown), state = modules[name].apply(
                    {"params": params, **state},
                    *pair,
                    target,
                    rngs={"diffusion": key},
                    mutable=list(state),
                    method="losses",
                )
                return terms, shown, dict(state)

            key_tap = jax.random.fold_in(key, keys[name])
            with naming(name):
                terms, shown, state[place] = _sharded_by_compiler(run)(
                    params[place], state[place], key_tap, pair, target
                )
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
            info[name] = shown
        return losses, state, info

    return Distillation(init, loss)


def refine(
    tap: Tap, params: Any, state: Any, key: jax.Array, student: Any, teacher: Any
) -> tuple[Refined, list[jax.Array]]:
    """What the block of one tap makes of a pair, as in training; changes nothing.

    Args:
      tap: the tap.
      params: ``params[name]`` of the distillation.
      state: ``state[name]`` of the distillation.
      key: random key of the noise.
      student: the student's tapped output.
      teacher: the teacher's tapped output.

    Returns:
      The refined pair, and the trajectories that the block has sown: of
      :class:`diffkd_jax.DiffKD` one, ``[num_steps + 1, b, h, w, c]``, the start and the
      result of each DDIM step; an empty list where it has sown none.
    """
    # Batch statistics, as in training: running ones are never used there.
    refined, sown = _Pair(tap).apply(
        {"params": params, **state},
        student,
        teacher,
        rngs={"diffusion": key},
        mutable=[*state, "intermediates"],
    )
    flat = flatten_dict(sown.get("intermediates", {}))
    return refined, [x for path, (x, *_) in flat.items() if path[-1] == "trajectory"]


class _Pair(nn.Module):
    """The block of one tap, as a child that has its kind's name."""

    tap: Tap

    @nn.compact
    def __call__(self, student, teacher) -> Refined:
        teacher = jax.lax.stop_gradient(teacher)
        if self.tap.block is None:
            return Refined(student, teacher)
        # The name is part of every key that a block draws with.
        name = type(self.tap.block).__name__.lower()
        out = self.tap.block.clone(parent=self, name=name)(student, teacher)
        if not all(hasattr(out, field) for field in Refined._fields):
            raise ValueError(
                f"block: found {type(out).__name__} of {name}, expected a Refined("
                "student, teacher, losses, info)"
            )
        return Refined(*(getattr(out, field) for field in Refined._fields))

    def losses(self, student, teacher, target):
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
        sizes = {"student": refined.student, "teacher": refined.teacher}
        rms = {f"rms/{side}": _rms(x) for side, x in sizes.items()}
        return terms, {**rms, **refined.info}


def _rms(x: jax.Array) -> jax.Array:
    """Root mean square, without gradient."""
    x = jax.lax.stop_gradient(x).astype(jnp.float32)
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def _sharded_by_compiler(function: Callable) -> Callable:
    """A function whose results are replicated, on a mesh of whatever axes.

    The gradient of a convolution has no sharding of its own under the explicit axes
    that ``jax.make_mesh`` makes, so inside they are the compiler's.
    """
    axes = jax.sharding.get_abstract_mesh().explicit_axes
    if not axes:
        return function
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=PartitionSpec())


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {k: v.shape for k, v in flatten_dict(tree, sep="/").items()}


def _check_taps(taps: Any) -> None:
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


def _all_are(kind: type, values: Iterable) -> bool:
    return all(isinstance(value, kind) for value in values)
