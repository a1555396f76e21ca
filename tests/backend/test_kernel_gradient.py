"""The gradient of a kernel, summed over parts of a batch, against XLA's own."""

import functools

import jax
import numpy as np
import pytest

from diffkd_jax.backend import wide_convolution
from diffkd_jax.backend.wide_convolution import apply_in_parts
from diffkd_jax.models.backbones.layers import make_conv
from tests.helpers.jaxprs import find_equations


@pytest.mark.parametrize("options", [
    {"window_strides": (1, 1), "padding": [(1, 1), (1, 1)]},
    {"window_strides": (2, 2), "padding": "SAME"},
    {"window_strides": (1, 1), "padding": [(2, 2), (2, 2)], "rhs_dilation": (2, 2)},
])  # fmt: skip
def test_gradients_are_those_of_the_convolution(options):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        x, kernel = draw((48, 6, 6, 2)), draw((3, 3, 2, 3))
        plain = functools.partial(
            jax.lax.conv_general_dilated,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            **options,
        )
        weight = draw(plain(x, kernel).shape)
        loss = lambda function, *a: (weight * function(*a) ** 2).sum()
        result, wanted = (
            jax.value_and_grad(functools.partial(loss, f), (0, 1))(x, kernel)
            for f in (functools.partial(apply_in_parts, plain), plain)
        )
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_single_device_takes_parts(dtype, monkeypatch):
    """A network calls it in this way. Half precision is rounded once, as by XLA."""
    layer = make_conv(4, 3, stride=2, dtype=dtype, name="conv")
    x = jax.random.normal(jax.random.key(0), (64, 16, 16, 3))
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    loss = lambda variables, x: jax.numpy.sin(layer.apply(variables, x)).sum()
    plain = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
    monkeypatch.setattr(wide_convolution.jax, "device_count", lambda: 1)
    taken = jax.make_jaxpr(jax.grad(lambda *a: loss(*a), (0, 1)))(variables, x)
    assert str(taken).count("conv_general_dilated") == 2 + 64 // wide_convolution.PART
    parts = jax.jit(jax.grad(lambda *a: loss(*a), (0, 1)))(variables, x)
    rtol = {"float32": 1e-5, "bfloat16": 2**-7}[dtype]
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_a_narrow_map_is_one_product_first():
    """Even if the batch is large enough for parts."""
    x, kernel = np.ones((32, 16, 2, 4), np.float32), np.ones((3, 3, 4, 8), np.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    assert wide_convolution.is_wide(x.shape, 1)
    run = lambda *a: wide_convolution.convolve_in_parts(*a, (1, 1), "SAME", **options)
    program = jax.make_jaxpr(run)(x, kernel).jaxpr
    assert not find_equations(program, "conv_general_dilated")
