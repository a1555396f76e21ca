"""Compares the gradients of a step's losses, to see whether they agree."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..distill import Distillation
from ..losses import Weight
from ..train_state import Outputs, TrainState
from .step_losses import bind_losses

Scalar = Float[Array, ""]
ALL = "distillation"  # the sum of all losses of the taps


def compare_gradients(
    state: TrainState,
    teacher: PyTree,
    batch: PyTree,
    *,
    student_apply: Callable[..., tuple[Outputs, PyTree]],
    teacher_apply: Callable[..., Outputs],
    distillation: Distillation,
    task_loss: Callable[..., Mapping[str, Scalar]],
    weights: Mapping[str, Weight],
    prepare: Callable[[Array, PyTree], PyTree] | None = None,
    frozen: Callable[[PyTree], PyTree] | None = None,
) -> dict[str, Scalar]:
    """Compares the gradient of each weighted loss with that of the task.

    All gradients are those with respect to the student's parameters. The losses are
    exactly those of the next :func:`diffkd_jax.diffkd_step`: the same augmentation and
    the same noise, with batch norm in training mode. Nothing is changed.

    It costs one forward pass and, for each loss that depends on the student, one
    backward pass. Clipping by the optimizer is not part of the gradients.

    Args:
      state: the state before the step.
      teacher: frozen variables of the teacher, any pytree.
      batch: the batch of the step.
      student_apply: as in ``diffkd_step``, like the next arguments.
      teacher_apply: ``(teacher, batch) -> outputs``.
      distillation: from :func:`diffkd_jax.distillation`.
      task_loss: ``(outputs, batch) -> {name: scalar}``.
      weights: factor of each loss.
      prepare: ``(key, batch) -> batch``, or None.
      frozen: ``student's parameters -> tree of booleans``, true for parameters that the
        optimizer does not change. They are left out. None if all of them train.

    Returns:
      Float32 scalars by name:

      * ``norm/task_gradient``, the Euclidean norm of the task's gradient, the sum of
        all losses of the task.
      * ``gradient_ratio/<loss>``, the norm for this loss divided by that of the task.
      * ``gradient_cosine/<loss>``, the cosine of the angle to the task's gradient, -1
        to 1. It is NaN if one of the two gradients is zero, such as that of a loss that
        trains the distiller alone.

      ``<loss>`` is each loss of the taps; ``distillation``, the sum of them; and each
      loss of the task if it has several. Losses that are not finite give NaN.

    Raises:
      ValueError: as ``diffkd_step``.

    >>> from diffkd_jax import Tap, distillation, init_state
    >>> import optax
    >>> batch = {"image": jnp.eye(4), "target": {"label": jnp.array([0, 1, 2, 0])}}
    >>> apply = lambda w, batch: {"logits": batch["image"] @ w}
    >>> distill = distillation({"logits": Tap("logits", "logits")})
    >>> teacher, student = jnp.eye(4, 3), jnp.zeros((4, 3))
    >>> state = init_state(jax.random.key(0), student, {}, apply(student, batch),
    ...     apply(teacher, batch), distillation=distill, optimizer=optax.sgd(0.1))
    >>> figures = compare_gradients(state, teacher, batch, distillation=distill,
    ...     student_apply=lambda w, s, batch, key: (apply(w, batch), s),
    ...     teacher_apply=apply, weights={"logits": 2.0},
    ...     task_loss=lambda out, batch: {"task": ((out["logits"] - 1) ** 2).mean()})
    >>> round(float(figures["gradient_ratio/logits/distance"]), 4)
    1.0
    >>> round(float(figures["gradient_cosine/distillation"]), 4)
    0.5
    """
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
        distill=True,
    )
    params = state.params["student"]

    def split_losses(params: PyTree) -> tuple[dict[str, Scalar], dict[str, Scalar]]:
        losses = losses_of({**state.params, "student": params})
        weighted, task = losses.weighted, losses.task
        taps = {name: loss for name, loss in weighted.items() if name not in task}
        return {name: weighted[name] for name in task}, taps

    values, apply_tangent = jax.linearize(split_losses, params)
    mask = jax.tree.leaves(frozen(params)) if frozen is not None else []

    def pull_back(part: int, names: Iterable[str]) -> list[Array]:
        """Returns the gradient of a sum of losses, one array for each parameter.

        A loss that does not depend on the student costs nothing, because the
        transposition leaves out what no output needs.
        """
        total = lambda tangent: sum(
            (apply_tangent(tangent)[part][name] for name in names), jnp.zeros(())
        )
        (gradient,) = jax.linear_transpose(total, params)(jnp.ones(()))
        leaves = jax.tree.leaves(gradient)
        if mask:
            leaves = [
                x for x, is_frozen in zip(leaves, mask, strict=True) if not is_frozen
            ]
        return [x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in leaves]

    task_losses, tap_losses = values
    gradients = {name: pull_back(1, [name]) for name in tap_losses}
    if len(task_losses) > 1:
        gradients |= {name: pull_back(0, [name]) for name in task_losses}
    task_gradient = pull_back(0, task_losses)
    zeros = [jnp.zeros_like(x) for x in task_gradient]
    parts = [zeros, *(gradients[name] for name in tap_losses)]
    gradients[ALL] = [sum(x[1:], x[0]) for x in zip(*parts, strict=True)]
    norm = _norm_of(task_gradient)
    figures = {"norm/task_gradient": norm}
    for name, gradient in gradients.items():
        length = _norm_of(gradient)
        figures[f"gradient_ratio/{name}"] = length / norm
        # Not the product of the norms, which may be too small for float32.
        cosine = _dot([x / length for x in gradient], [x / norm for x in task_gradient])
        figures[f"gradient_cosine/{name}"] = cosine
    return {name: value.astype(jnp.float32) for name, value in figures.items()}


def _dot(a: list[Array], b: list[Array]) -> Array:
    """Returns the sum of products of all numbers of two lists of arrays."""
    return sum((jnp.vdot(x, y) for x, y in zip(a, b, strict=True)), jnp.zeros(()))


def _norm_of(gradient: list[Array]) -> Array:
    """Returns the Euclidean norm of all numbers of a gradient."""
    return jnp.sqrt(_dot(gradient, gradient))
