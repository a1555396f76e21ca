"""Schedules at given steps, and which parameters decay."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.train.optimizer import make_optimizer, make_schedule
from tests.train.conftest import load_config


def config(**fields):
    made = load_config("quickstart")
    made.update_from_flattened_dict(fields)
    return made


def test_step_schedule_of_recipe_a1():
    schedule = make_schedule(load_config("cifar100"), 10, 2400)
    found = [float(schedule(epoch * 10)) for epoch in (0, 149, 150, 179, 180, 209, 210)]
    expected = [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert schedule(1499) == pytest.approx(0.05)


def test_warm_up_does_not_move_the_boundaries():
    made = config(**{"schedule.name": "step", "schedule.warmup_epochs": 2.0})
    with made.unlocked():
        made.schedule.boundaries = (5,)
    schedule = make_schedule(made, 10, 100)
    found = [float(schedule(step)) for step in (0, 10, 20, 49, 50)]
    np.testing.assert_allclose(found, [0, 0.05, 0.1, 0.1, 0.01], rtol=1e-5)


def test_cosine_ends_at_zero():
    schedule = make_schedule(config(**{"schedule.name": "cosine"}), 10, 100)
    found = [float(schedule(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(found, [0.1, 0.05, 0.0], atol=1e-7)


@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay(everything):
    made = config(**{"optimizer.decay_norms_and_biases": everything})
    optimizer = make_optimizer(made, lambda step: 1.0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decay = made.optimizer.weight_decay
    # Nesterov's first step: gradient plus momentum times gradient.
    np.testing.assert_allclose(updates["kernel"], -1.9 * decay, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -1.9 * decay * everything, rtol=1e-5)
