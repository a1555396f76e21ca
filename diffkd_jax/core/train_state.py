"""The state that training steps change."""

from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Int32, PyTree

from .distill import Distillation

Outputs = Mapping[str, PyTree]
MAX_SEED = 2**31 - 1


@flax.struct.dataclass
class TrainState:
    """All values that :func:`diffkd_jax.diffkd_step` changes, as one pytree.

    Attributes:
      step: int32 scalar, number of updates done.
      params: trained parameters, ``{"student": ..., "distiller": ...}``.
      model_state: values carried without gradient (batch statistics), under the same
        two keys.
      opt_state: state of the optimizer for ``params``.
      ema: moving averages of the student, ``{"params": ..., "state": ...}``, or an
        empty dict.
      seed: int32 scalar; all randomness is a function of ``(seed, step)``.

    >>> state = TrainState(jnp.zeros((), jnp.int32), {"student": 1.0}, {}, ())
    >>> int(state.seed), state.ema
    (0, {})
    """

    step: Int32[Array, ""]
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: PyTree
    ema: PyTree = flax.struct.field(default_factory=dict)
    seed: Int32[Array, ""] = flax.struct.field(default_factory=lambda: as_seed(0))


def init_state(
    key: Array,
    student_params: PyTree,
    student_state: PyTree,
    student_out: Outputs,
    teacher_out: Outputs,
    *,
    distillation: Distillation,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    seed: int | Int[Array, ""] = 0,
) -> TrainState:
    """Creates the state before the first step, from given student variables.

    The state can be donated to ``jax.jit``, because no buffer occurs in it twice. The
    given arrays become part of the state and are donated with it.

    Args:
      key: random key of the distiller's parameters.
      student_params: trained variables of the student.
      student_state: its carried variables, or an empty dict.
      student_out: its outputs, arrays or ``jax.ShapeDtypeStruct``.
      teacher_out: outputs of the teacher for the same batch size.
      distillation: from :func:`diffkd_jax.distillation`.
      optimizer: applied to student and distiller together.
      ema: if true, the state carries moving averages of the student;
        :func:`diffkd_jax.diffkd_step` updates them with its ``ema_decay``.
      seed: seed of all later draws, 0 to 2^31 - 1. It is stored in the state, so a step
        that is compiled for one seed also serves any other.

    Returns:
      The state.

    Raises:
      ValueError: taps do not fit the outputs, or the seed is out of range.

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


def as_seed(seed: int | Int[Array, ""]) -> Int32[Array, ""]:
    """Returns a seed as an int32 scalar; a traced seed is not checked.

    Args:
      seed: integer, 0 to 2^31 - 1.

    Raises:
      ValueError: not an integer, or out of range.

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
