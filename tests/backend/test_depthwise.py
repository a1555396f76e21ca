"""The sum of shifted products and its written-down gradient, in double precision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.backend.depthwise import depthwise

LAYOUT = ("NHWC", "HWIO", "NHWC")
PADDINGS = ("SAME", "VALID", ((1, 1), (1, 1)), ((2, 0), (0, 3)))


def with_gradients(convolve, x, kernel, padding, stride, dilation):
    y, backward = jax.vjp(
        lambda x, kernel: convolve(
            x,
            kernel,
            (stride, stride),
            padding,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=LAYOUT,
            feature_group_count=4,
        ),
        x,
        kernel,
    )
    weights = jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) / y.size
    return y, *backward(weights)


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_result_and_gradients_are_those_of_xla(side, stride, dilation):
    draws = np.random.default_rng(0)
    for padding, size in itertools.product(PADDINGS, [(12, 9), (9, 14)]):
        shapes = (2, *size, 4), (side, side, 1, 4)
        arguments = [draws.standard_normal(shape) for shape in shapes]
        run = jax.jit(with_gradients, static_argnums=(0, 3, 4, 5))
        with jax.enable_x64(True):
            ours, theirs = (
                run(convolve, *arguments, padding, stride, dilation)
                for convolve in (depthwise, jax.lax.conv_general_dilated)
            )
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == np.float64
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_batch_may_be_mapped_over():
    x, kernel = jnp.ones((3, 2, 4, 4, 2)), jnp.ones((3, 3, 1, 2))

    def total(kernel, x):
        y = depthwise(
            x, kernel, (2, 2), "SAME", rhs_dilation=(1, 1), dimension_numbers=LAYOUT,
            feature_group_count=2,
        )  # fmt: skip
        return (y**2).sum()

    each = jax.vmap(jax.grad(total), (None, 0))(kernel, x)
    np.testing.assert_allclose(each[0], jax.grad(total)(kernel, x[0]), rtol=1e-6)
