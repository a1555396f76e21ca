"""One training step with a frozen teacher, as a pure function of pytrees."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .distill import Distillation
from .gradients.step_losses import bind_losses
from .losses import Weight
from .train_state import Outputs, TrainState, as_seed, init_state

__all__ = ["TrainState", "as_seed", "diffkd_step", "init_state"]

Scalar = Float[Array, ""]
SMALL = 2**12  # arrays of up to so many values are reduced together


def diffkd_step(
    state: TrainState,
    teacher: PyTree,
    batch: PyTree,
    *,
    student_apply: Callable[..., tuple[Outputs, PyTree]],
    teacher_apply: Callable[..., Outputs],
    distillation: Distillation,
    task_loss: Callable[..., Mapping[str, Scalar]],
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, Weight],
    prepare: Callable[[Array, PyTree], PyTree] | None = None,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
    distill: bool = True,
) -> tuple[TrainState, dict[str, Array]]:
    """Updates student and distiller once: losses (eq. 9), gradient, optimizer.

    Bind everything after ``batch`` and jit the result. The teacher is an argument: it
    is never trained, and never part of the compiled program. All randomness is a
    function of ``state.seed`` and ``state.step``.

    Complete training loops are in ``docs/training-loop.md`` and in
    :mod:`diffkd_jax.train.fit`.

    Args:
      state: from :func:`init_state`.
      teacher: frozen variables of the teacher, any pytree.
      batch: any pytree; distances are given ``batch["target"]``, or None without it.
      student_apply: ``(params, model_state, batch, key) -> (outputs, model_state)``.
      teacher_apply: ``(teacher, batch) -> outputs``.
      distillation: from :func:`diffkd_jax.distillation`.
      task_loss: ``(outputs, batch) -> {name: scalar}``.
      optimizer: the same as for :func:`init_state`.
      weights: factor of each loss, a number or a schedule of ``state.step``; losses
        without a weight count 1. See :func:`diffkd_jax.core.losses.weigh`.
      prepare: ``(key, batch) -> batch``, applied once for teacher and student, such as
        mixup.
      ema_decay: share of the old moving average that is kept, in [0, 1). Above 0, it
        needs a state that carries averages. Batch statistics are averaged too. Values
        that are not floats (counters, random keys) are copied.
      skip_nonfinite: if true and a loss, the gradient or the new state is not finite,
        all of the state except ``step`` stays unchanged.
      distill: if false, this step trains on the task alone. The teacher is not applied,
        the distiller's carried variables stay unchanged, and its gradient is zero; the
        optimizer still moves its parameters by momentum and weight decay. Weights of
        losses that this step does not have are ignored.

    Returns:
      The next state, and float32 scalars by name:

      * ``loss/<name>``, unweighted; ``weighted/<name>`` if the weight is not 1;
        ``loss/total``.
      * ``norm/gradient``, ``norm/params``, and ``norm/state``: the largest absolute
        value of all carried floats including averages, which is not finite if one of
        them is not.
      * ``skipped``, 0 or 1, only with ``skip_nonfinite``.
      * ``gamma/<tap>/mean`` and the like: the ``info`` of the blocks, with the name of
        the tap after the first "/". DiffKD reports ``mean``, ``min``, ``max`` and the
        vector ``histogram``.
      * ``rms/<tap>/student`` and ``rms/<tap>/teacher``, root mean squares of the two
        features that are compared.

    Raises:
      ValueError: a weight for a loss that does not exist, a loss named twice,
        ``ema_decay`` for a state without averages, or a function whose result does not
        have the form stated here.

    >>> from diffkd_jax.core.distill import Tap, distillation
    >>> batch = {"image": jnp.eye(4), "target": {"label": jnp.array([0, 1, 2, 0])}}
    >>> apply = lambda w, batch: {"logits": batch["image"] @ w}
    >>> teacher, student = jnp.eye(4, 3), jnp.zeros((4, 3))
    >>> kwargs = {"distillation": distillation({"logits": Tap("logits", "logits")}),
    ...           "optimizer": optax.sgd(0.1)}
    >>> state = init_state(jax.random.key(0), student, {}, apply(student, batch),
    ...     apply(teacher, batch), **kwargs)
    >>> state, metrics = diffkd_step(state, teacher, batch, **kwargs,
    ...     student_apply=lambda w, s, batch, key: (apply(w, batch), s),
    ...     teacher_apply=apply, task_loss=lambda out, batch: {}, weights={})
    >>> float(metrics["loss/logits/distance"])
    0.25
    """
    if ema_decay and not state.ema:
        raise ValueError(
            f"ema_decay: found {ema_decay} for a state without an average, expected "
            "one from init_state(..., ema=True), or 0"
        )
    losses_of = bind_losses(
        state,
        teacher,
        batch,
        student_apply=student_apply,
        teacher_apply=teacher_apply,
        distillation=distillation,
        task_loss=task_loss,
        weights=weights,
        prepare=prepare,
        distill=distill,
    )

    def total_loss(params: dict[str, PyTree]) -> tuple[Scalar, tuple[PyTree, ...]]:
        losses, weighted, _, model_state, info = losses_of(params)
        total = sum(weighted.values(), start=jnp.zeros(()))
        return total, (losses, weighted, model_state, info)

    gradient, (losses, weighted, model_state, info) = jax.grad(
        total_loss, has_aux=True
    )(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema:
        student = {"params": params["student"], "state": model_state["student"]}
        ema = _average(ema, student, ema_decay)
    metrics = _losses(losses, weighted) | {
        "norm/gradient": _norm(gradient),
        "norm/params": _norm(params),
        "norm/state": _largest((model_state, ema)),
    }
    metrics = {name: value.astype(jnp.float32) for name, value in metrics.items()}
    new = dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        ema=ema,
    )
    if skip_nonfinite:
        numbers = [*metrics.values(), _largest(opt_state)]
        finite = jnp.isfinite(jnp.stack(numbers)).all()
        selected = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
        new = dataclasses.replace(selected, step=new.step)
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
    return new, metrics | _reports(info)


def _losses(
    losses: Mapping[str, Scalar], weighted: Mapping[str, Scalar]
) -> dict[str, Scalar]:
    """Returns the unweighted losses, the weighted ones that differ, and the total."""
    metrics = {f"loss/{name}": value for name, value in losses.items()}
    for name, value in weighted.items():
        if value is not losses[name]:
            metrics[f"weighted/{name}"] = value
    return metrics | {"loss/total": sum(weighted.values(), start=jnp.zeros(()))}


def _reports(info: Mapping[str, Mapping[str, Array]]) -> dict[str, Array]:
    """Returns the info of all blocks; ``gamma/mean`` becomes ``gamma/<tap>/mean``."""
    metrics = {}
    for tap, arrays in info.items():
        for name, value in arrays.items():
            kind, *detail = name.split("/")
            metrics["/".join([kind, tap, *detail])] = value
    return metrics


def _is_float(x: PyTree) -> bool:
    """Returns whether an array holds floats or complex numbers."""
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _average(old: PyTree, new: PyTree, decay: float) -> PyTree:
    """Returns ``decay * old + (1 - decay) * new`` for all floats.

    Other values are the new ones. Dtypes are kept.
    """

    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        if not _is_float(old):
            return new
        return ((1.0 - decay) * new + decay * old).astype(old.dtype)

    return jax.tree.map(average, old, new)


def _norm(tree: PyTree) -> jax.Array:
    """Returns the Euclidean norm of all floats, in float32 or wider."""
    return jnp.asarray(optax.tree.norm(_joined(tree)), jnp.float32)


def _largest(tree: PyTree) -> jax.Array:
    """Returns the largest absolute value of all floats, without overflow."""
    maxima = [jnp.abs(x).max().astype(jnp.float32) for x in _joined(tree)]
    return jnp.stack([jnp.zeros(()), *maxima]).max()


def _joined(tree: PyTree) -> list[jax.Array]:
    """Returns all floats, in float32 or wider, the small arrays joined into one."""
    floats = [x for x in jax.tree.leaves(tree) if _is_float(x) and jnp.size(x)]
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in floats]
    small = [x.ravel() for x in wide if x.size <= SMALL]
    # Each array may have its own sharding on a mesh with explicit axes.
    if len(small) < 2 or jax.sharding.get_abstract_mesh().explicit_axes:
        return wide
    # Each reduction is compiled separately, and most arrays are small vectors.
    return [x for x in wide if x.size > SMALL] + [jnp.concatenate(small)]
