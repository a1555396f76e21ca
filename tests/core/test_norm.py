"""The written-down gradient of batch norm against the derivative of its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.core.norm import batch_norm


def plain(x, scale, bias, epsilon):
    axes = tuple(range(1, x.ndim - 1))
    mean = x.mean(axes, keepdims=True)
    var = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias, mean, var


@pytest.mark.parametrize("shape", [(1, 6, 3), (2, 3, 2, 4, 5)])
def test_gradient_is_that_of_its_parts(shape):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        x, scale, bias = draw(shape), draw(shape[-1]), draw(shape[-1])
        weights = draw(shape), draw(shape[-1]), draw(shape[-1])

        def loss(function, *arguments):
            # The sum depends on all three results, and is not linear in any of them.
            found = function(*arguments, 1e-3)
            terms = zip(weights, found, strict=True)
            return sum(jnp.sum(w * jnp.sin(v)) for w, v in terms)

        found, wanted = (
            jax.grad(loss, (1, 2, 3))(f, x, scale, bias) for f in (batch_norm, plain)
        )
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_second_derivatives_are_defined():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((1, 5, 2))
        ones, zeros = np.ones(2), np.zeros(2)

        def slope(function):
            value = lambda x: jnp.sum(function(x, ones, zeros, 1e-3)[0] ** 3)
            return lambda x: jnp.sum(jax.grad(value)(x) ** 2)

        found, wanted = (jax.grad(slope(f))(x) for f in (batch_norm, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
