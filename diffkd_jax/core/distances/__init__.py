"""Distances between outputs of student and teacher, as pure functions to a scalar.

Each takes ``(student, teacher, target)``: two arrays of one shape ``[..., c]``, and the
dict ``batch["target"]``, which only :func:`dkd` reads. All of them compute in float32
or wider. Bind further arguments such as ``tau`` with ``functools.partial``.
"""

from collections.abc import Callable
from typing import NoReturn

import jax
from jaxtyping import PyTree

from .features import attention, attention_mse, cosine, cwd, l1, mse
from .logits import dist, dkd, kl
from .similarity import Scalar

__all__ = [
    "DISTANCES",
    "attention",
    "attention_mse",
    "cosine",
    "cwd",
    "dist",
    "dkd",
    "kl",
    "l1",
    "mse",
    "reads_target",
]

DISTANCES: dict[str, Callable[..., Scalar]] = {
    "mse": mse,
    "l1": l1,
    "attention_mse": attention_mse,
    "cosine": cosine,
    "kl": kl,
    "dist": dist,
    "dkd": dkd,
    "cwd": cwd,
}


def reads_target(
    distance: Callable[..., Scalar], student: PyTree, teacher: PyTree
) -> bool:
    """Returns whether a distance reads the target of the batch.

    Args:
      distance: ``(student, teacher, target) -> scalar``. It is traced by
        ``jax.eval_shape``, so no values are computed.
      student: an array that it accepts, or a ``jax.ShapeDtypeStruct``.
      teacher: the same.

    >>> x = jax.ShapeDtypeStruct((4, 2, 2, 3), "float32")
    >>> [name for name, distance in DISTANCES.items() if reads_target(distance, x, x)]
    ['dkd']
    """
    try:
        jax.eval_shape(lambda s, t: distance(s, t, _Watched()), student, teacher)
    except _TargetRead:
        return True
    return False


class _TargetRead(Exception):
    """The signal that a distance has read its target."""

    pass


class _Watched(dict[str, PyTree]):
    """A target that raises :class:`_TargetRead` when it is read."""

    def _read(self, *_: object, **__: object) -> NoReturn:
        raise _TargetRead

    __getitem__ = __contains__ = __iter__ = __len__ = get = keys = items = values = (
        _read
    )
