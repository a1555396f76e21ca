"""The gradient for a kernel, in parts and away from oneDNN, against XLA's own."""

import functools

import jax
import jax.export
import numpy as np
import pytest

from diffkd_jax.backend import convolution
from diffkd_jax.backend.convolution import NHWC, convolve
from diffkd_jax.backend.kernel_gradient import PART, convolve_in_parts, is_wide
from diffkd_jax.models.backbones.layers import make_conv
from diffkd_jax.models.backbones.resnet import ResNet
from tests.helpers.jaxprs import find_equations


@pytest.mark.parametrize("side", [6, 16])  # of a part that is all, and of parts
@pytest.mark.parametrize("crop", [False, True])
@pytest.mark.parametrize("options", [
    {"strides": (1, 1), "padding": [(1, 1), (1, 1)]},
    {"strides": (2, 2), "padding": [(0, 1), (0, 1)]},
    {"strides": (1, 1), "padding": [(2, 2), (2, 2)], "rhs_dilation": (2, 2)},
    {"strides": (3, 1), "padding": [(0, 0), (2, 0)]},
])  # fmt: skip
def test_derivatives_are_those_of_the_convolution(options, crop, side):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        x, kernel = draw((32, side, 6, 2)), draw((3, 3, 2, 3))
        assert is_wide(x.shape) == (side == 16)
        options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
        strides = options.pop("strides")
        plain = functools.partial(
            jax.lax.conv_general_dilated, window_strides=strides, **options
        )
        ours = functools.partial(
            convolve_in_parts, strides=strides, crop=crop, **options
        )
        weight = draw(plain(x, kernel).shape)
        tangents = draw(x.shape), draw(kernel.shape)
        for function in (ours, plain):
            backward = jax.value_and_grad(
                lambda *a, f=function: (weight * f(*a) ** 2).sum(), (0, 1)
            )
            forward = jax.jvp(function, (x, kernel), tangents)
            derivatives = jax.tree.leaves((backward(x, kernel), forward))
            if function is ours:
                result = derivatives
        for a, b in zip(result, derivatives, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("crop", [False, True])
def test_the_gradient_of_an_empty_batch_is_zero(crop):
    x, kernel = np.ones((0, 16, 6, 2), np.float32), np.ones((3, 3, 2, 3), np.float32)
    loss = lambda kernel: convolve_in_parts(
        x, kernel, (1, 1), [(1, 1), (1, 1)], crop=crop, dimension_numbers=NHWC
    ).sum()
    np.testing.assert_array_equal(jax.grad(loss)(kernel), np.zeros_like(kernel))


@pytest.mark.parametrize("with_onednn", [False, True])
def test_a_network_is_exported_with_a_symbolic_batch_size(with_onednn, monkeypatch):
    monkeypatch.setattr(convolution.jax, "device_count", lambda: 1)
    monkeypatch.setattr(convolution, "has_onednn", lambda: with_onednn)
    model = ResNet((1, 1, 1, 1), 3, width=2)
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    variables = model.init(jax.random.key(1), x)
    infer = jax.jit(lambda x: model.apply(variables, x)["logits"])
    (size,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    exported = jax.export.export(infer)(shape)
    np.testing.assert_allclose(exported.call(x), infer(x), rtol=1e-4, atol=1e-5)


def test_what_is_not_asked_for_is_not_computed():
    """The gradient for an image costs as much as the convolution of a stem."""
    shapes = jax.ShapeDtypeStruct((4, 6, 6, 2), "float32"), np.ones((3, 3, 2, 3))
    same, numbers = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")

    def loss(x, kernel):
        y = convolve_in_parts(
            x, kernel, (1, 1), same, crop=True, dimension_numbers=numbers
        )
        return (y**2).sum()

    for argument in (0, 1):
        program = jax.make_jaxpr(jax.grad(loss, argument))(*shapes).jaxpr
        assert len(find_equations(program, "conv_general_dilated")) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_single_device_takes_parts(dtype, monkeypatch):
    """A network calls it in this way. Half precision is rounded once, as by XLA."""
    layer = make_conv(4, 3, stride=2, dtype=dtype, name="conv")
    x = jax.random.normal(jax.random.key(0), (64, 16, 16, 3))
    variables = jax.jit(layer.init)(jax.random.key(1), x)
    loss = lambda variables, x: jax.numpy.sin(layer.apply(variables, x)).sum()
    plain = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
    monkeypatch.setattr(convolution.jax, "device_count", lambda: 1)
    monkeypatch.setattr(convolution, "has_onednn", lambda: False)
    taken = jax.make_jaxpr(jax.grad(lambda *a: loss(*a), (0, 1)))(variables, x)
    assert str(taken).count("conv_general_dilated") == 2 + 64 // PART
    parts = jax.jit(jax.grad(lambda *a: loss(*a), (0, 1)))(variables, x)
    rtol = {"float32": 1e-5, "bfloat16": 2**-7}[dtype]
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_a_narrow_map_is_one_product_first():
    """Even if the batch is large enough for parts."""
    x, kernel = np.ones((32, 16, 2, 4), np.float32), np.ones((3, 3, 4, 8), np.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    assert is_wide(x.shape)
    run = lambda *a: convolve(*a, (1, 1), "SAME", **options)
    program = jax.make_jaxpr(run)(x, kernel).jaxpr
    assert not find_equations(program, "conv_general_dilated")
