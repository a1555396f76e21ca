"""Rates are those of Optax, and of a Python integer are computed without JAX."""

import jax
import numpy as np
import optax
import pytest

from diffkd_jax.train import schedules

SCALES = {3: 0.5, 7: 0.1}
OURS = {
    "constant": schedules.constant(0.1),
    "step": schedules.by_steps(0.1, SCALES),
    "exponential": schedules.exponential(0.1, 3, 0.97),
    "cosine": schedules.cosine(0.1, 9, 0.01),
    "poly": schedules.poly(0.1, 0.02, 0.9, 9),
}
THEIRS = {
    "constant": optax.constant_schedule(0.1),
    "step": optax.piecewise_constant_schedule(0.1, SCALES),
    "exponential": optax.exponential_decay(0.1, 3, 0.97, staircase=True),
    "cosine": optax.cosine_decay_schedule(0.1, 9, 0.1),
    "poly": optax.polynomial_schedule(0.1, 0.02, 0.9, 9),
}
STEPS = np.arange(9, dtype=np.int32)  # Optax's "poly" ends in nan


@pytest.mark.parametrize("name", sorted(OURS))
def test_rates_are_those_of_optax(name):
    ours, theirs = (
        [jax.jit(one[name])(step) for step in STEPS] for one in (OURS, THEIRS)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_rate_of_a_python_integer_needs_no_program(name):
    warm = schedules.after_warmup(0.01, 0.1, 4, OURS[name])
    traced = jax.jit(warm)
    for step in range(12):
        rate = warm(step)
        assert not isinstance(rate, jax.Array)
        assert float(rate) == pytest.approx(float(traced(step)), rel=1e-4)
