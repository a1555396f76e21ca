"""Distances of maps equal their golden values and gradients, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.core.distances import DISTANCES, cwd
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/map_distances.npz")
OTHERS = {"dist": "dist/loss", "mse": "mse/loss", "kl": "pixel_kl/loss"}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def pair():
    return [jnp.asarray(FILE[f"in/{x}"].transpose(0, 2, 3, 1)) for x in SIDES]


SIDES = ("student", "teacher")


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_cwd(tau):
    value, gradient = jax.value_and_grad(functools.partial(cwd, tau=tau))(*pair())
    np.testing.assert_allclose(value, FILE[f"cwd/tau_{tau}"], rtol=1e-12)
    expected = FILE[f"cwd/grad_tau_{tau}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", OTHERS)
def test_the_others_take_pixels_as_examples(name):
    np.testing.assert_allclose(DISTANCES[name](*pair()), FILE[OTHERS[name]], rtol=1e-9)


def test_the_gradient_of_dist():
    gradient = jax.grad(DISTANCES["dist"])(*pair())
    expected = FILE["dist/grad"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-12)


def test_vectors_have_no_positions():
    x = jnp.ones((4, 3))
    with pytest.raises(ValueError, match=r"cwd: found \(4, 3\), expected maps"):
        cwd(x, x)


@pytest.mark.parametrize("name", ["cwd", "kl", "mse"])
def test_large_maps_stay_finite_in_float32(name):
    file = np.load(GOLDEN / "dense/odd/distances_large.npz")
    expected = {"cwd": 83205.14441844299, "kl": 9171.152632429774}
    expected["mse"] = 219047664.9026922
    maps = [file[f"{x}_large"].astype(np.float32) for x in SIDES]
    value, gradient = jax.value_and_grad(DISTANCES[name])(*map(jnp.asarray, maps))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, expected[name], rtol=1e-4)
    assert np.isfinite(gradient).all()
