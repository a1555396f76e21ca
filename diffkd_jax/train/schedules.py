"""Learning rates by step: of a Python integer in NumPy, else to be traced.

Formulas are those of Optax, whose schedules compute a number of the log by as many
compiled programs as they have operations.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

Schedule = Callable[[Any], Any]


def _arrays(step: Any) -> Any:
    return np if isinstance(step, int | np.integer) else jnp


def constant(peak: float) -> Schedule:
    """The same rate at every step."""
    return lambda step: peak


def by_steps(peak: float, scales: Mapping[int, float]) -> Schedule:
    """Multiplied by a factor from each of some steps on.

    >>> float(by_steps(1.0, {3: 0.5})(3))
    0.5
    """

    def schedule(step):
        xp, rate = _arrays(step), peak
        for threshold, scale in sorted(scales.items()):
            before = xp.maximum(0.0, xp.sign(threshold - step))
            rate = rate * before + (1 - before) * scale * rate
        return rate

    return schedule


def exponential(peak: float, interval: int, factor: float) -> Schedule:
    """Multiplied by a factor every ``interval`` steps, which 0 and 1 leave out.

    >>> float(exponential(1.0, 2, 0.5)(5))
    0.25
    """
    if not factor:
        return constant(peak)

    def schedule(step):
        xp = _arrays(step)
        decayed = peak * xp.power(factor, xp.floor(step / interval))
        return xp.where(step <= 0, peak, decayed)

    return schedule


def cosine(peak: float, total_steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from ``peak`` to ``end``.

    >>> float(cosine(1.0, 10, 0.5)(10))
    0.5
    """
    share, total = end / peak, float(total_steps)

    def schedule(step):
        xp = _arrays(step)
        done = xp.minimum(step, total)
        wave = 0.5 * (1 + xp.cos(xp.pi * done / total))
        return peak * ((1 - share) * wave + share)

    return schedule


def poly(peak: float, end: float, power: float, total_steps: int) -> Schedule:
    """A power of what is left of the steps, from ``peak`` to ``end``.

    >>> float(poly(1.0, 0.0, 2.0, 4)(2))
    0.25
    """

    def schedule(step):
        xp = _arrays(step)
        # Compiled, the whole divided by itself may exceed 1, and a root be none.
        left = xp.maximum(0.0, 1 - xp.clip(step, 0, total_steps) / total_steps)
        return (peak - end) * left**power + end

    return schedule


def after_warmup(start: float, peak: float, steps: int, main: Schedule) -> Schedule:
    """From ``start`` to ``peak`` in so many steps, and then as ``main`` would be.

    >>> float(after_warmup(0.0, 1.0, 4, constant(1.0))(3))
    0.75
    """
    ramp = poly(start, peak, 1, steps)
    return lambda step: _arrays(step).where(step < steps, ramp(step), main(step))
