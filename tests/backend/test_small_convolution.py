"""Convolutions of small maps as products, against XLA's."""

import jax
import numpy as np
import pytest

from diffkd_jax.backend.convolution import convolve, is_usual
from diffkd_jax.backend.small_convolution import is_small
from diffkd_jax.core.diffkd import DiffKD
from tests.helpers.jaxprs import find_equations

NUMBERS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


@pytest.mark.parametrize("sides", [(1, 1), (2, 2), (2, 7), (5, 1)])
@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "dilation"),
    [
        ((3, 3), (1, 1), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3), (2, 2), [(1, 1), (1, 1)], (1, 1)),
        ((3, 3), (2, 2), "SAME", (1, 1)),
        ((3, 3), (1, 1), [(4, 4), (4, 4)], (4, 4)),
        ((7, 7), (2, 2), [(3, 3), (3, 3)], (1, 1)),
        ((8, 1), (1, 1), [(4, 3), (0, 0)], (1, 1)),
        ((8, 8), (1, 1), "VALID", (1, 1)),  # nothing comes out
        ((8, 8), (1, 1), [(9, 9), (9, 9)], (9, 9)),  # few or none of it meet the map
    ],
)
def test_values_and_gradients_are_those_of_a_convolution(
    sides, kernel, strides, padding, dilation
):
    with jax.enable_x64(True):
        draw = np.random.default_rng(0).standard_normal
        x, kernel = draw((3, *sides, 2)), draw((*kernel, 2, 4))
        options = {"rhs_dilation": dilation, **NUMBERS}
        assert is_usual(x.shape, kernel.shape, options)
        assert is_small(x.shape, kernel.shape)

        def loss(function, x, kernel):
            y = function(x, kernel, strides, padding, **options)
            return jax.numpy.sin(y).sum(), y

        result, wanted = (
            jax.value_and_grad(loss, (1, 2), has_aux=True)(f, x, kernel)
            for f in (convolve, jax.lax.conv_general_dilated)
        )
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((3, 2, 2, 4), {"lhs_dilation": (2, 2)}),
        ((3, 2, 2, 4), {"preferred_element_type": np.float32}),
        ((3, 2, 2, 4), {"feature_group_count": 2}),
        ((3, 4, 2, 2), {"dimension_numbers": ("NCHW", "HWIO", "NCHW")}),
        ((3, 8, 8, 4), {"rhs_dilation": (6, 6)}),  # larger than the map by dilation
    ],
)
def test_what_is_unusual_is_left_to_xla(shape, options):
    options = NUMBERS | options
    groups = options.get("feature_group_count", 1)
    draw = np.random.default_rng(0).standard_normal
    x = draw(shape).astype(jax.numpy.bfloat16)
    kernel = draw((3, 3, 4 // groups, 6)).astype(jax.numpy.bfloat16)
    small = is_small(x.shape, kernel.shape)
    assert not (small and is_usual(x.shape, kernel.shape, options))
    padding = [(1, 1), (1, 1)]
    result, wanted = (
        f(x, kernel, (1, 1), padding, **options)
        for f in (convolve, jax.lax.conv_general_dilated)
    )
    assert result.dtype == wanted.dtype
    np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("sides", [(2, 7), (8, 8)])
def test_a_padding_that_crops_is_left_to_xla(sides):
    draw = np.random.default_rng(0).standard_normal
    x, kernel = draw((3, *sides, 2)), draw((3, 3, 2, 4))
    padding = [(2, 1), (-2, 0)]
    result, wanted = (
        f(x, kernel, (1, 1), padding, **NUMBERS)
        for f in (convolve, jax.lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(result, wanted)


def test_one_axis_is_left_to_xla():
    x, kernel = np.ones((3, 2, 4), np.float32), np.ones((3, 4, 6), np.float32)
    numbers = {"dimension_numbers": ("NHC", "HIO", "NHC")}
    result = convolve(x, kernel, (1,), [(1, 1)], **numbers)
    assert result.tolist() == [[[8.0] * 6] * 2] * 3


def test_a_block_on_small_maps_takes_them():
    x = jax.ShapeDtypeStruct((4, 2, 2, 8), "float32")
    rngs = {"params": jax.random.key(0), "diffusion": jax.random.key(1)}
    program = jax.make_jaxpr(DiffKD(num_steps=1).init)(rngs, x, x).jaxpr
    equations = find_equations(program, "conv_general_dilated")
    assert {e.invars[1].aval.shape[:2] for e in equations} == {(1, 1)}
