"""The maximum of shifted maps, against XLA's maximum over windows."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.backend.max_pool import max_pool
from tests.helpers.jaxprs import find_equations

GEOMETRIES = [
    ((3, 3), (2, 2), [(1, 1), (1, 1)]),
    ((2, 2), (2, 2), [(0, 0), (0, 0)]),
    ((3, 2), (1, 3), [(2, 0), (0, 1)]),
    ((4, 1), (3, 1), [(0, 0), (0, 0)]),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_those_of_xla(geometry, dtype):
    """Maps after a ReLU, of few distinct values, so that most windows have ties."""
    draw = np.random.default_rng(0)
    x = jnp.asarray(np.maximum(draw.integers(-3, 4, (2, 9, 8, 3)), 0), dtype)
    wanted, backward = jax.vjp(lambda x: nn.max_pool(x, *geometry), x)
    result, ours = jax.vjp(lambda x: max_pool(x, *geometry), x)
    gradient = jnp.asarray(draw.integers(-9, 10, wanted.shape), dtype)
    np.testing.assert_array_equal(result, wanted)
    np.testing.assert_array_equal(ours(gradient)[0], backward(gradient)[0])


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 3)])
def test_a_window_that_holds_a_nan_gives_nan(place):
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, *place, 0] = np.nan
    result = max_pool(x, (2, 2), (2, 2))
    wanted = nn.max_pool(x, (2, 2), (2, 2))
    assert np.isnan(wanted).sum() == 1
    np.testing.assert_array_equal(result, wanted)


def test_a_map_that_is_smaller_than_the_window_gives_an_empty_one():
    x = np.ones((2, 1, 4, 3), np.float32)
    result = max_pool(x, (2, 2), (2, 2))
    assert result.shape == nn.max_pool(x, (2, 2), (2, 2)).shape == (2, 0, 2, 3)


def test_no_window_is_reduced_on_cpu():
    run = jax.make_jaxpr(lambda x: max_pool(x, *GEOMETRIES[0]))
    program = run(jax.ShapeDtypeStruct((1, 8, 8, 2), "float32")).jaxpr
    assert not find_equations(program, "reduce_window_max")
