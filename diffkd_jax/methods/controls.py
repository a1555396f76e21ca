"""Controls: methods that are DiffKD with one part replaced.

A control takes a method that is built already and replaces what its name says. So
everything else, with all options, is that of the method. A comparison with a control
shows how much of a gain the replaced part explains.
"""

import dataclasses
from typing import Any

from ..core.diffkd import DiffKD
from .method import Method


def random_teacher(method: Method, *, of: str = "diffkd") -> Method:
    """Returns a method whose teacher keeps its random initial values.

    Its batch norms have the statistics of training images, see
    :mod:`diffkd_jax.train.commands.random_teacher`.

    Args:
      method: the method to control, as its own options make it.
      of: name of this method.

    >>> random_teacher(Method({})).teacher
    'random'
    """
    return method._replace(teacher="random")


def projection(method: Method, *, of: str = "diffkd") -> Method:
    """Returns DiffKD without its denoiser.

    The projection of the student, noise matching and the output projection are left.
    Without a denoiser there is no diffusion loss.

    Args:
      method: the method to control, as its own options make it.
      of: name of this method.

    Raises:
      ValueError: no tap of the method denoises.

    >>> from .single import diffkd
    >>> projection(diffkd()).taps["features"].block.num_steps
    0
    """
    return _replace_in_blocks(method, of, num_steps=0, denoiser="diffusion")


def regressor(method: Method, *, of: str = "diffkd") -> Method:
    """Returns DiffKD with a two-layer network of equal size in the denoiser's place.

    The network is applied once, see :class:`diffkd_jax.core.regressor.Regressor`. There
    is no diffusion loss.

    Args:
      method: the method to control, as its own options make it.
      of: name of this method.

    Raises:
      ValueError: no tap of the method denoises.

    >>> from .single import diffkd
    >>> regressor(diffkd()).taps["logits"].block.denoiser
    'regressor'
    """
    return _replace_in_blocks(method, of, denoiser="regressor")


def own_student(method: Method, *, of: str = "diffkd") -> Method:
    """Returns a method whose teacher is an undistilled copy of the student.

    The copy is trained first, without distillation and with the seed of the run. Then a
    new student starts from the same initial values and learns from it. Teacher and
    student have one architecture, so each tap reads the same output of both.

    Args:
      method: the method to control, as its own options make it.
      of: name of this method.

    >>> own_student(Method({})).teacher
    'student'
    """
    taps = {
        name: dataclasses.replace(tap, teacher=tap.student)
        for name, tap in method.taps.items()
    }
    return method._replace(taps=taps, teacher="student")


CONTROLS = {
    "random_teacher": random_teacher,
    "projection": projection,
    "regressor": regressor,
    "self": own_student,
}


def _replace_in_blocks(method: Method, of: str, **fields: Any) -> Method:
    """Returns a method with other fields of its DiffKD blocks."""
    taps, weights = dict(method.taps), dict(method.weights)
    blocks = {n: t.block for n, t in taps.items() if isinstance(t.block, DiffKD)}
    if not blocks:
        raise ValueError(
            f"of: found {of!r}, none of whose taps denoises, expected a method of "
            "DiffKD such as 'diffkd'"
        )
    for name, block in blocks.items():
        taps[name] = dataclasses.replace(taps[name], block=block.clone(**fields))
        weights.pop(f"{name}/diffusion", None)
    return method._replace(taps=taps, weights=weights)
