"""One training step of a student with a frozen teacher, pure over pytrees."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .distill import Distillation
from .losses import (
    Weight,
    check_outputs,
    check_student_result,
    merged,
    weigh,
    weighable,
)

PyTree = Any
MAX_SEED = 2**31 - 1
SMALL = 2**12  # values of an array that is measured together with others


@flax.struct.dataclass
class TrainState:
    """All that a step changes, as one pytree.

    Attributes:
      step: int32 scalar, number of updates done.
      params: trained, ``{"student": ..., "distiller": ...}``.
      model_state: carried without gradient (batch statistics), same two keys.
      opt_state: state of the optimizer over ``params``.
      ema: averages of the student's ``params`` and ``state``, or an empty dict.
      seed: int32 scalar; all randomness is a function of ``(seed, step)``.
    """

    step: jax.Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: PyTree
    ema: PyTree = flax.struct.field(default_factory=dict)
    seed: jax.Array = flax.struct.field(default_factory=lambda: as_seed(0))


def init_state(
    key: jax.Array,
    student_params: PyTree,
    student_state: PyTree,
    student_out: Mapping,
    teacher_out: Mapping,
    *,
    distillation: Distillation,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    seed: int | jax.Array = 0,
) -> TrainState:
    """State before the first step, for given student variables.

    No buffer is in it twice, so it can be donated to ``jax.jit``; the arrays given here
    are in it themselves, and go with it.

    Args:
      key: random key of the distiller's parameters.
      student_params: trained variables of the student.
      student_state: its carried variables, or an empty dict.
      student_out: its outputs; arrays or ``jax.ShapeDtypeStruct``.
      teacher_out: outputs of the teacher for the same batch size.
      distillation: from :func:`diffkd_jax.distillation`.
      optimizer: applied to student and distiller together.
      ema: carry averages of the student, for ``ema_decay`` of the step.
      seed: of all later draws, 0 to 2^31 - 1; data, so that another seed compiles
        nothing anew.

    Raises:
      ValueError: taps that do not fit the outputs, or a seed out of range.

    >>> from diffkd_jax import DiffKD, Tap, distillation
    >>> out = {"logits": jax.ShapeDtypeStruct((4, 3), jnp.float32)}
    >>> distill = distillation({"logits": Tap("logits", "logits", block=DiffKD())})
    >>> state = jax.jit(lambda key: init_state(key, {"w": jnp.ones(3)}, {}, out, out,
    ...     distillation=distill, optimizer=optax.sgd(0.1)))(jax.random.key(0))
    >>> sorted(state.params), int(state.step)
    (['distiller', 'student'], 0)
    """
    params, state = distillation.init(key, student_out, teacher_out)
    params = {"student": student_params, "distiller": params}
    average = {"params": student_params, "state": student_state} if ema else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={"student": student_state, "distiller": state},
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, average),
        seed=as_seed(seed),
    )


def as_seed(seed: int | jax.Array) -> jax.Array:
    """A seed as an int32 scalar; a traced one is taken as it is.

    Raises:
      ValueError: a number that is not an integer from 0 to 2^31 - 1.

    >>> int(as_seed(7))
    7
    """
    if not isinstance(seed, jax.core.Tracer):
        number = np.asarray(seed)
        if number.ndim or number.dtype.kind not in "iu" or not 0 <= number <= MAX_SEED:
            raise ValueError(
                f"seed: found {seed}, expected an integer, 0 to {MAX_SEED}"
            )
    return jnp.asarray(seed, jnp.int32)


def diffkd_step(
    state: TrainState,
    teacher: PyTree,
    batch: PyTree,
    *,
    student_apply: Callable[..., tuple[Mapping, PyTree]],
    teacher_apply: Callable[..., Mapping],
    distillation: Distillation,
    task_loss: Callable[..., dict[str, jax.Array]],
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, Weight],
    prepare: Callable[[jax.Array, PyTree], PyTree] | None = None,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
    distill: bool = True,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates student and distiller once: eq. 9, gradient, optimizer.

    To be jitted by the caller, with everything after ``batch`` bound. The teacher is
    an argument, never trained and never part of the compiled program. All randomness of
    the step is a function of ``state.seed`` and ``state.step``.

    Args:
      state: from :func:`init_state`.
      teacher: frozen variables of the teacher, any pytree.
      batch: any pytree; ``batch["target"]`` is given to distances if it is there.
      student_apply: ``(params, model_state, batch, key) -> (outputs, model_state)``.
      teacher_apply: ``(teacher, batch) -> outputs``.
      distillation: from :func:`diffkd_jax.distillation`.
      task_loss: ``(outputs, batch) -> {name: scalar}``.
      optimizer: the one given to :func:`init_state`.
      weights: factor of each loss, a number or a schedule of ``state.step``; see
        :func:`diffkd_jax.core.losses.weigh`. Those not named count 1.
      prepare: ``(key, batch) -> batch`` for teacher and student alike, such as mixup.
      ema_decay: share of the old average of the student that is kept, for a state that
        carries one. Batch statistics are averaged too; what is no float (counters,
        random keys) is copied.
      skip_nonfinite: where a loss, the gradient or the new state is not finite, all of
        the state but ``step`` stays as it was.
      distill: False for a step of the task alone among others: the teacher is not
        applied, the distiller's carried variables stay and its gradient is zero, with
        which the optimizer goes on (momentum and decay of weights move it). Weights of
        losses that are then not there are left out.

    Returns:
      The next state, and float32 scalars: ``loss/<name>`` raw, ``weighted/<name>``
      where the weight is not 1, ``loss/total``, ``norm/gradient``,
      ``norm/params``, ``norm/state`` (the largest carried float, averages included:
      not finite as soon as one of them is not), ``skipped`` (0 or 1, only with
      ``skip_nonfinite``), and what the blocks show of themselves:
      their ``gamma/mean`` is ``gamma/<tap>/mean``; DiffKD shows ``mean``, ``min``,
      ``max`` and the vector ``histogram``. ``rms/<tap>/student`` and ``teacher`` are
      root mean squares of what is compared.

    Raises:
      ValueError: a weight for a loss that does not exist, a loss named twice,
        ``ema_decay`` for a state without an average, or a function that
        returns something else than said here.

    Complete loops around it are in ``docs/training-loop.md`` and in
    :mod:`diffkd_jax.train.fit`.

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
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    key_student, key_distill = jax.random.split(key)
    if prepare is not None:
        # Folded in, so that the other draws are those without it.
        batch = prepare(jax.random.fold_in(key, 2), batch)
        if batch is None:
            raise ValueError("prepare: found NoneType, expected the batch")
    if distill:
        teacher_out = jax.lax.stop_gradient(teacher_apply(teacher, batch))
        check_outputs("teacher_apply", teacher_out)
    target = batch.get("target") if isinstance(batch, Mapping) else None

    def total_loss(params):
        result = student_apply(
            params["student"], state.model_state["student"], batch, key_student
        )
        check_student_result(result)
        student_out, student_state = result
        distiller_state = state.model_state["distiller"]
        losses = merged(task_loss(student_out, batch), {})
        info: dict[str, dict[str, jax.Array]] = {}
        if distill:
            terms, distiller_state, info = distillation.loss(
                params["distiller"],
                distiller_state,
                key_distill,
                student_out,
                teacher_out,
                target,
            )
            losses, known = merged(losses, terms), weights
        else:
            names = weighable(losses)
            known = {name: w for name, w in weights.items() if name in names}
        weighted = weigh(losses, known, state.step)
        new_state = {"student": student_state, "distiller": distiller_state}
        total = sum(weighted.values(), start=jnp.zeros(()))
        return total, (losses, weighted, new_state, info)

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
        sound = jnp.isfinite(jnp.stack(numbers)).all()
        kept = jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, state)
        new = dataclasses.replace(kept, step=new.step)
        metrics["skipped"] = 1.0 - sound.astype(jnp.float32)
    return new, metrics | _shown(info)


def _losses(losses: Mapping, weighted: Mapping) -> dict[str, jax.Array]:
    """Raw losses, weighted ones where they differ, and their sum."""
    found = {f"loss/{name}": value for name, value in losses.items()}
    for name, value in weighted.items():
        if value is not losses[name]:
            found[f"weighted/{name}"] = value
    return found | {"loss/total": sum(weighted.values(), start=jnp.zeros(()))}


def _shown(info: Mapping[str, Mapping]) -> dict[str, jax.Array]:
    """What blocks show, ``gamma/mean`` of a tap as ``gamma/<tap>/mean``."""
    found = {}
    for tap, shown in info.items():
        for name, value in shown.items():
            kind, *rest = name.split("/")
            found["/".join([kind, tap, *rest])] = value
    return found


def _is_float(x: jax.Array) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _average(old: PyTree, new: PyTree, decay: float) -> PyTree:
    """``decay`` of the old value of each float, dtypes kept; else the new value."""

    def one(old, new):
        if not _is_float(old):
            return new
        return ((1.0 - decay) * new + decay * old).astype(old.dtype)

    return jax.tree.map(one, old, new)


def _norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all floats, in float32 or wider."""
    return jnp.asarray(optax.tree.norm(_joined(tree)), jnp.float32)


def _largest(tree: PyTree) -> jax.Array:
    """Largest absolute value of all floats, which no finite values overflow."""
    each = [jnp.abs(x).max().astype(jnp.float32) for x in _joined(tree)]
    return jnp.stack([jnp.zeros(()), *each]).max()


def _joined(tree: PyTree) -> list[jax.Array]:
    """All floats, in float32 or wider, the small arrays as one."""
    floats = [x for x in jax.tree.leaves(tree) if _is_float(x) and jnp.size(x)]
    wide = [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in floats]
    small = [x.ravel() for x in wide if x.size <= SMALL]
    # Arrays of explicit axes may each lie in a way of their own.
    if len(small) < 2 or jax.sharding.get_abstract_mesh().explicit_axes:
        return wide
    # Each reduction is compiled for itself, and most arrays are small vectors.
    return [x for x in wide if x.size > SMALL] + [jnp.concatenate(small)]
