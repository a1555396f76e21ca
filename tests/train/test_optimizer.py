"""Schedules have the recipes' rates, and weight decay leaves parameters out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.optimizer import make_optimizer, make_schedule
from tests.helpers.configs import load_config


def config(**fields):
    run_config = load_config("quickstart")
    run_config.update_from_flattened_dict(fields)
    return resolve(run_config)


def schedule_of(made, *steps):
    return make_schedule(made.schedule, made.optimizer.learning_rate, *steps)


def test_step_schedule_of_recipe_a1():
    schedule = schedule_of(resolve(load_config("cifar100")), 10, 2400)
    actual = [
        float(schedule(epoch * 10)) for epoch in (0, 149, 150, 179, 180, 209, 210)
    ]
    expected = [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert schedule(1499) == pytest.approx(0.05)


def test_warm_up_does_not_move_the_boundaries():
    fields = {"schedule.warmup_epochs": 2.0, "schedule.boundaries": (5,)}
    run_config = config(**{"schedule.name": "step"} | fields)
    schedule = schedule_of(run_config, 10, 100)
    actual = [float(schedule(step)) for step in (0, 10, 20, 49, 50)]
    np.testing.assert_allclose(actual, [0, 0.05, 0.1, 0.1, 0.01], rtol=1e-5)


def test_cosine_ends_at_the_last_rate():
    fields = {"schedule.name": "cosine", "schedule.end": 0.02}
    schedule = schedule_of(config(**fields), 10, 100)
    actual = [float(schedule(step)) for step in (0, 50, 100)]
    np.testing.assert_allclose(actual, [0.1, 0.06, 0.02], rtol=1e-5)


@pytest.mark.parametrize("steps", [3, 5, 12])
def test_poly_ends_at_the_last_rate(steps):
    fields = {"schedule.name": "poly", "schedule.end": 0.02, "schedule.power": 0.9}
    schedule = jax.jit(schedule_of(config(**fields), 10, steps))
    actual = [float(schedule(step)) for step in (0, steps - 1, steps)]
    last = 0.02 + 0.08 * (1 / steps) ** 0.9
    np.testing.assert_allclose(actual, [0.1, last, 0.02], rtol=1e-5)


def test_exponential_schedule_of_recipe_b2():
    """The rate is multiplied by 0.97 every 2.4 epochs.

    The 3 epochs of warm-up from 1e-6 count.
    """
    fields = {
        "optimizer.learning_rate": 0.048,
        "schedule.name": "exponential",
        "schedule.factor": 0.97,
        "schedule.every_epochs": 2.4,
        "schedule.warmup_epochs": 3.0,
        "schedule.warmup_start": 1e-6,
    }
    schedule = schedule_of(config(**fields), 10, 4500)
    ramp = [1e-6 + (0.048 - 1e-6) * step / 30 for step in (0, 15, 29)]
    later = [0.048 * 0.97 ** (step // 24) for step in (30, 47, 48, 4499)]
    actual = [float(schedule(step)) for step in (0, 15, 29, 30, 47, 48, 4499)]
    np.testing.assert_allclose(actual, ramp + later, rtol=1e-4, atol=1e-8)


STEPS = 5004  # an epoch of ImageNet at 256 pictures a step; exact for all three


def imagenet_rate(pair, step):
    run_config = resolve(load_config("imagenet", pair))
    schedule = schedule_of(run_config, STEPS, round(run_config.train.epochs * STEPS))
    return float(schedule(step))


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.1), (29.9, 0.1), (30, 1e-2), (59.9, 1e-2), (60, 1e-3), (90, 1e-4)],
)
def test_rates_of_recipe_b1(epoch, rate):
    assert imagenet_rate("r34-r18", int(epoch * STEPS)) == pytest.approx(rate)


@pytest.mark.parametrize("epoch", [0, 1.5, 2.9, 3, 4.7, 4.9, 100, 449])
def test_rates_of_recipe_b2(epoch):
    step = int(epoch * STEPS)
    if epoch < 3:
        expected = 1e-6 + (0.048 - 1e-6) * step / (3 * STEPS)
    else:
        expected = 0.048 * 0.97 ** math.floor(epoch / 2.4)
    actual = imagenet_rate("r50-r34", step)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-8)  # float32


@pytest.mark.parametrize("epoch", [0, 10, 19.9, 20, 150, 299.9])
def test_rates_of_recipe_b3(epoch):
    step = int(epoch * STEPS)
    if epoch < 20:
        expected = 5e-7 + (5e-4 - 5e-7) * step / (20 * STEPS)
    else:
        share = (1 + math.cos(math.pi * step / (300 * STEPS))) / 2
        expected = 5e-6 + (5e-4 - 5e-6) * share
    actual = imagenet_rate("swin_l-swin_t", step)
    assert actual == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"schedule.name: found 'linear'"):
        config(**{"schedule.name": "linear"})
    with pytest.raises(ValueError, match=r"optimizer.name: found 'lion'"):
        config(**{"optimizer.name": "lion"})


def trajectory(optimizer, gradients):
    """Returns a kernel's and a bias's value after each update, both from one."""
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    state, seen = optimizer.init(params), []
    for g in gradients:
        tree = jax.tree.map(lambda p, g=g: jnp.full_like(p, g), params)
        updates, state = optimizer.update(tree, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((float(params["kernel"][0, 0]), float(params["bias"][0])))
    return np.array(seen)


GRADIENTS = [0.5, -2.0, 0.1, 1.0]


def test_sgd_has_nesterov_momentum_and_adds_the_decay_to_the_gradient():
    """Written out as in PyTorch: the rate is outside the momentum."""
    run_config = config(
        **{
            "optimizer.name": "sgd",
            "optimizer.nesterov": True,
            "optimizer.weight_decay": 0.01,
            "optimizer.decay_norms_and_biases": False,
        }
    )
    for column, decay in ((0, 0.01), (1, 0.0)):
        p, momentum, expected = 1.0, 0.0, []
        for step, g in enumerate(GRADIENTS):
            g = g + decay * p
            momentum = 0.9 * momentum + g
            p -= 0.1 / (step + 1) * (g + 0.9 * momentum)
            expected.append(p)
        optimizer = make_optimizer(run_config.optimizer, lambda step: 0.1 / (step + 1))
        actual = trajectory(optimizer, GRADIENTS)[:, column]
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_rmsprop_is_that_of_tensorflow():
    """Written out: the average of squares starts at one; epsilon is inside the root."""
    run_config = config(
        **{
            "optimizer.name": "rmsprop",
            "optimizer.weight_decay": 0.01,
            "optimizer.decay_norms_and_biases": False,
        }
    )
    for column, decay in ((0, 0.01), (1, 0.0)):
        p, average, momentum, expected = 1.0, 1.0, 0.0, []
        for step, g in enumerate(GRADIENTS):
            g = g + decay * p
            average = 0.9 * average + 0.1 * g * g
            rate = 0.1 / (step + 1)
            momentum = 0.9 * momentum + rate * g / np.sqrt(average + 1e-3)
            p -= momentum
            expected.append(p)
        optimizer = make_optimizer(run_config.optimizer, lambda step: 0.1 / (step + 1))
        actual = trajectory(optimizer, GRADIENTS)[:, column]
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_adamw_decays_the_parameters_and_not_the_moments():
    run_config = config(
        **{
            "optimizer.name": "adamw",
            "optimizer.weight_decay": 0.05,
            "optimizer.decay_norms_and_biases": False,
        }
    )
    for column, decay in ((0, 0.05), (1, 0.0)):
        p, m, v, expected = 1.0, 0.0, 0.0, []
        for step, g in enumerate(GRADIENTS, 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            p -= 0.1 * (update + decay * p)
            expected.append(p)
        actual = trajectory(
            make_optimizer(run_config.optimizer, lambda step: 0.1), GRADIENTS
        )
        np.testing.assert_allclose(actual[:, column], expected, rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    run_config = config(
        **{
            "optimizer.clip_norm": 1.0,
            "optimizer.weight_decay": 0.0,
            "optimizer.momentum": 0.0,
            "optimizer.nesterov": False,
        }
    )
    # Six equal gradients of g have the norm g * sqrt(6).
    actual = trajectory(
        make_optimizer(run_config.optimizer, lambda step: 0.1), [2.0, 0.1]
    )
    first = 1 - 0.1 / np.sqrt(6)
    np.testing.assert_allclose(actual[:, 0], [first, first - 0.01], rtol=1e-5)


@pytest.mark.parametrize("everything", [True, False])
def test_weight_decay(everything):
    run_config = config(**{"optimizer.decay_norms_and_biases": everything})
    optimizer = make_optimizer(run_config.optimizer, lambda step: 1.0)
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decay = run_config.optimizer.weight_decay
    # Nesterov's first step: gradient plus momentum times gradient.
    np.testing.assert_allclose(updates["kernel"], -1.9 * decay, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -1.9 * decay * everything, rtol=1e-5)
