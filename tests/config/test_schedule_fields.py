"""Schedules on few steps, and fields whose values make no sense."""

import math

import numpy as np
import pytest

from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.optimizer import make_schedule
from tests.helpers.configs import load_config


def schedule(boundaries=(), steps_per_epoch=10, **fields):
    config = load_config("quickstart")
    config.update_from_flattened_dict({f"schedule.{k}": v for k, v in fields.items()})
    with config.unlocked(), config.ignore_type():
        config.schedule.boundaries = boundaries
    config = resolve(config)
    peak = config.optimizer.learning_rate
    return make_schedule(config.schedule, peak, steps_per_epoch, 100)


def test_boundaries_that_round_to_one_step_all_count():
    rate = schedule((0.4, 1.2, 1.4), steps_per_epoch=1, name="step", factor=0.1)
    rates = [float(rate(step)) for step in (0, 1, 2)]
    np.testing.assert_allclose(rates, [0.01, 1e-4, 1e-4], rtol=1e-5)
    rate = schedule((1.2, 1.4, 3), steps_per_epoch=1, name="step", factor=0.1)
    rates = [float(rate(step)) for step in (0, 1, 2, 3)]
    np.testing.assert_allclose(rates, [0.1, 1e-3, 1e-3, 1e-4], rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1, "30", None, True])
def test_boundaries_that_are_no_epochs_are_named(bad):
    with pytest.raises(ValueError, match=r"schedule\.boundaries: found"):
        schedule((1, bad), name="step")


def test_an_interval_below_one_step_is_named():
    with pytest.raises(ValueError, match=r"schedule.every_epochs: found .* 0.1 epochs"):
        schedule(name="exponential", every_epochs=0.04)


@pytest.mark.parametrize("bad", [0.0, -2.4, math.nan, math.inf])
def test_an_interval_that_cannot_be_is_named(bad):
    with pytest.raises(ValueError, match=r"schedule.every_epochs: found .*, expected"):
        schedule(name="exponential", every_epochs=bad)
