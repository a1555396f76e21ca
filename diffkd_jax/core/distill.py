"""Distillation of named outputs: taps, and a pair of pure functions over them."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from .diffkd import DiffKD
from .distances import mse
from .modules import conv
from .shapes import as_map, match_spatial, spatial_rule

GAMMA_BINS = 20


@dataclasses.dataclass(frozen=True)
class Tap:
    """One matched pair of outputs and how to match it.

    Outputs are ``[b, c]``, tokens ``[b, n, c]``, or maps ``[b, h, w, c]``: channels are
    last (NHWC), channels first must be transposed.

    Attributes:
      student: name in the student's outputs, nested with "/".
      teacher: name in the teacher's outputs.
      distance: ``(student, teacher, target) -> scalar``.
      denoise: keyword arguments of :class:`DiffKD`, or None to compare directly
        (KD, DIST, DKD, feature MSE).
      token_shape: (h, w) of rank-3 features, or None for a square.

    A direct comparison of features with different channels goes through a trained
    1x1 projection of the student; maps of different size are matched by
    :func:`diffkd_jax.core.shapes.spatial_rule`.

    >>> Tap("features", "features", denoise={"latent_channels": 64}).distance.__name__
    'mse'
    """

    student: str
    teacher: str
    distance: Callable[..., jax.Array] = mse
    denoise: Mapping[str, Any] | None = None
    token_shape: tuple[int, int] | None = None


class Distillation(NamedTuple):
    """A pair of pure functions, in the manner of ``optax.GradientTransformation``.

    Attributes:
      init: ``(key, student_out, teacher_out) -> (params, state)``; reads shapes and
        dtypes only, so ``jax.ShapeDtypeStruct`` will do, and so will tracers.
      loss: ``(params, state, key, student_out, teacher_out, target=None) ->
        (losses, state)``, losses being a flat dict of float32 scalars named
        ``<tap>/distance``, ``<tap>/diffusion`` and ``<tap>/autoencoder``.

    ``state[tap]`` holds ``batch_stats`` and, for the batch seen last, ``gamma``:
    ``mean``, ``min``, ``max`` and the counts ``histogram`` of 20 bins over [0, 1].
    """

    init: Callable[..., tuple[dict, dict]]
    loss: Callable[..., tuple[dict[str, jax.Array], dict]]


def distillation(taps: Mapping[str, Tap]) -> Distillation:
    """Turns taps into a :class:`Distillation`; no taps, no losses.

    Args:
      taps: tap by name; the name prefixes its losses.

    Raises:
      ValueError: at ``init`` or ``loss``, an output that is not there or shapes
        that cannot match; the message names the tap.

    >>> d = distillation({"logits": Tap("logits", "logits", denoise={})})
    >>> out = {"logits": jnp.ones((4, 10))}
    >>> params, state = d.init(jax.random.key(0), out, out)
    >>> losses, state = d.loss(params, state, jax.random.key(1), out, out)
    >>> sorted(losses)
    ['logits/diffusion', 'logits/distance']
    """
    modules = {name: _Pair(tap) for name, tap in taps.items()}
    keys = {name: index for index, name in enumerate(sorted(taps))}

    def init(key, student_out, teacher_out):
        params, state = {}, {}
        for name, tap in taps.items():
            pair = _select(name, tap, student_out, teacher_out)
            if rule := resizing(name, tap, student_out, teacher_out):
                logging.getLogger(__name__).info("tap %r: %s", name, rule)
            pair = tuple(jnp.zeros(x.shape, x.dtype) for x in pair)
            key_p, key_d = jax.random.split(jax.random.fold_in(key, keys[name]))
            with _naming(name):
                variables = modules[name].init(
                    {"params": key_p, "diffusion": key_d}, *pair, None
                )
            params[name] = variables.get("params", {})
            state[name] = _state(variables.get("batch_stats", {}), None)
            if tap.denoise is not None:
                state[name] = _state(variables["batch_stats"], jnp.zeros(1))
        return params, state

    def loss(params, state, key, student_out, teacher_out, target=None):
        losses: dict[str, jax.Array] = {}
        new_state = {}
        for name, tap in taps.items():
            pair = _select(name, tap, student_out, teacher_out)

            def run(params, state, key, pair, target, name=name):
                (terms, gamma), updates = modules[name].apply(
                    {"params": params, **_batch_stats(state)},
                    *pair,
                    target,
                    rngs={"diffusion": key},
                    mutable=["batch_stats"],
                )
                return terms, _state(updates.get("batch_stats", {}), gamma)

            key_tap = jax.random.fold_in(key, keys[name])
            with _naming(name):
                terms, new_state[name] = _sharded_by_compiler(run)(
                    params[name], state[name], key_tap, pair, target
                )
            losses |= {f"{name}/{term}": value for term, value in terms.items()}
        return losses, new_state

    return Distillation(init, loss)


class Trajectory(NamedTuple):
    """Denoising of a batch, for drawing.

    Attributes:
      steps: ``[num_steps + 1, b, h, w, c]``: start, then after each DDIM step.
      student: denoised and projected, as compared with ``teacher``.
      teacher: the target.
    """

    steps: jax.Array
    student: jax.Array
    teacher: jax.Array


def trajectory(
    tap: Tap, params: Any, state: Any, key: jax.Array, student: Any, teacher: Any
) -> Trajectory:
    """Runs the denoising of one tap and keeps every step; changes nothing.

    Args:
      tap: a tap with ``denoise``.
      params: ``params[name]`` of the distillation.
      state: ``state[name]`` of the distillation.
      key: random key of the noise.
      student: the student's tapped output.
      teacher: the teacher's tapped output.
    """
    if tap.denoise is None:
        raise ValueError("tap.denoise: found None, expected a tap that denoises")
    block = DiffKD(**{"token_shape": tap.token_shape, **tap.denoise})
    variables = {
        "params": params["diffkd"],
        "batch_stats": state["batch_stats"]["diffkd"],
    }
    # Batch statistics, as in training: running ones are never used there.
    out, sown = block.apply(
        variables,
        student,
        teacher,
        rngs={"diffusion": key},
        mutable=["batch_stats", "intermediates"],
    )
    steps = sown["intermediates"]["trajectory"][0]
    return Trajectory(steps, out.student, out.teacher)


class _Pair(nn.Module):
    """The losses of one tap, and gamma or None."""

    tap: Tap

    @nn.compact
    def __call__(self, student, teacher, target):
        tap = self.tap
        teacher = jax.lax.stop_gradient(teacher)
        terms, gamma = {}, None
        if tap.denoise is None:
            student, teacher = self._align(student, teacher)
        else:
            block = DiffKD(
                **{"token_shape": tap.token_shape, **tap.denoise}, name="diffkd"
            )
            out = block(student, teacher)
            student, teacher, gamma = out.student, out.teacher, out.gamma
            terms["diffusion"] = out.diffusion_loss
            if out.autoencoder_loss is not None:
                terms["autoencoder"] = out.autoencoder_loss
        if not self.is_initializing():  # there is no target then
            terms["distance"] = tap.distance(student, teacher, target)
        return terms, gamma

    def _align(self, student, teacher):
        """The student on the teacher's map and channels, for a direct comparison."""
        tap = self.tap
        if student.ndim != teacher.ndim:
            raise ValueError(
                f"found shapes {student.shape} (student) and {teacher.shape} "
                "(teacher), expected the same rank; pool or reshape one of them"
            )
        if student.ndim > 2:
            student, teacher = match_spatial(
                as_map(student, tap.token_shape), as_map(teacher, tap.token_shape)
            )
        channels = teacher.shape[-1]
        if student.shape[-1] != channels:
            shape = (*student.shape[:-1], channels)
            student = conv(as_map(student), channels, dtype=None, name="projection")
            student = student.reshape(shape)
        return student, teacher


def _sharded_by_compiler(function: Callable) -> Callable:
    """A function whose results are replicated, on a mesh of whatever axes.

    The gradient of a convolution has no sharding of its own under the explicit axes
    that ``jax.make_mesh`` makes, so inside they are the compiler's.
    """
    axes = jax.sharding.get_abstract_mesh().explicit_axes
    if not axes:
        return function
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=PartitionSpec())


def _state(batch_stats, gamma: jax.Array | None) -> dict:
    if gamma is None:
        return {}
    summary = {"mean": gamma.mean(), "min": gamma.min(), "max": gamma.max()}
    summary = jax.tree.map(lambda x: x.astype(jnp.float32), summary)
    summary["histogram"] = _counts(gamma).astype(jnp.float32)
    return {"batch_stats": batch_stats, "gamma": summary}


def _counts(gamma: jax.Array) -> jax.Array:
    """Those of ``jnp.histogram``, which no mesh with explicit axes lets through."""
    edges = jnp.linspace(0.0, 1.0, GAMMA_BINS + 1, dtype=gamma.dtype)
    below = (gamma[:, None] < edges[1:]).at[:, -1].set(gamma <= 1.0)
    return jnp.sum(below & (gamma[:, None] >= edges[:-1]), 0)


def _batch_stats(state: dict) -> dict:
    return {"batch_stats": state["batch_stats"]} if state else {}


def _select(name: str, tap: Tap, student_out, teacher_out) -> tuple:
    return (
        lookup(student_out, tap.student, f"tap {name!r}: student output"),
        lookup(teacher_out, tap.teacher, f"tap {name!r}: teacher output"),
    )


def lookup(outputs: Mapping, path: str, what: str = "output"):
    """The array at ``path`` of a dict of named outputs, nested with "/".

    Raises:
      ValueError: nothing there, or a group; the message starts with ``what`` and lists
        the names there are.

    >>> lookup({"deep": {"x": 1}}, "deep/x")
    1
    """
    value: Any = outputs
    for part in path.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(
                f"{what}: found no {path!r}, expected one of {_names(outputs)}"
            )
        value = value[part]
    if isinstance(value, Mapping):
        raise ValueError(
            f"{what}: found a group at {path!r}, expected one of {_names(outputs)}"
        )
    return value


def _names(outputs: Mapping, prefix: str = "") -> list[str]:
    names = []
    for key, value in outputs.items():
        nested = isinstance(value, Mapping)
        names += _names(value, f"{prefix}{key}/") if nested else [f"{prefix}{key}"]
    return names


def resizing(name: str, tap: Tap, student_out: Mapping, teacher_out: Mapping) -> str:
    """Says in words how the maps of a tap will be resized; "" if they need not be.

    >>> out = lambda side: {"x": jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)}
    >>> resizing("t", Tap("x", "x"), out(4), out(8))
    'teacher 8x8 -> 4x4 by average pooling'
    """
    pair = _select(name, tap, student_out, teacher_out)
    if pair[0].ndim != pair[1].ndim or pair[0].ndim not in (3, 4):
        return ""
    view = functools.partial(as_map, token_shape=tap.token_shape)
    with _naming(name):
        return spatial_rule(*(jax.eval_shape(view, x).shape for x in pair))


class _naming:
    """Puts the name of the tap in front of a ValueError."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, ValueError) and not str(error).startswith("tap "):
            raise ValueError(f"tap {self.name!r}: {error}") from error
