"""Values that are computed or drawn in half precision, and values that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import DiffKD, Tap, distillation
from diffkd_jax.tasks.classification.mix import random_erase
from tests.helpers.jaxprs import find_equations

RNGS = {"params": jax.random.key(0), "diffusion": jax.random.key(1)}
SHAPES = [((4, 4, 4, 8), (4, 4, 4, 12)), ((4, 8), (4, 12))]


def convolutions(function, *args):
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    found = find_equations(jaxpr, "conv_general_dilated")
    assert found
    return {str(equation.outvars[0].aval.dtype) for equation in found}


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_convolutions_are_in_the_dtype_of_the_features(shapes, dtype):
    tap = Tap("x", "x", block=DiffKD(latent_channels=6, num_steps=2))
    distill = distillation({"tap": tap})
    outputs = [{"x": jax.ShapeDtypeStruct(shape, dtype)} for shape in shapes]
    key = jax.random.key(0)
    params, state = jax.eval_shape(lambda: distill.init(key, *outputs))
    found = convolutions(lambda *a: distill.loss(*a[:2], key, *a[2:])[0], params, state,
                         *outputs)  # fmt: skip
    assert found == {dtype}
    losses, state, info = jax.eval_shape(
        lambda *a: distill.loss(*a[:2], key, *a[2:]), params, state, *outputs
    )
    wide = jax.tree.leaves((losses, params, state, info))
    assert {str(x.dtype) for x in wide} == {"float32"}


def test_integer_features_are_computed_in_float32():
    x = jnp.ones((4, 8), jnp.int32)
    distill = distillation({"tap": Tap("x", "y")})
    outputs = {"x": x}, {"y": jnp.ones((4, 3))}
    params, state = distill.init(jax.random.key(0), *outputs)
    loss = lambda: distill.loss(params, state, jax.random.key(0), *outputs)[0]
    assert convolutions(loss) == {"float32"}


def values(draws):
    return len(np.unique(np.asarray(draws, np.float32)))


def test_noise_is_drawn_in_float32_and_rounded():
    """A million draws in bfloat16 itself would take only some 128 values."""
    x = jnp.zeros((64, 16, 16, 8), jnp.bfloat16)
    module = DiffKD().bind({}, rngs={"diffusion": jax.random.key(0)})
    noise = module._draw(x)
    assert noise.student.dtype == x.dtype
    again = DiffKD().bind({}, rngs={"diffusion": jax.random.key(0)})
    wide = again._draw(x.astype(jnp.float32))
    np.testing.assert_array_equal(noise.student, wide.student.astype(x.dtype))
    np.testing.assert_array_equal(noise.teacher, wide.teacher)
    assert values(noise.student) > 1000


def test_erased_pixels_are_drawn_in_float32_and_rounded():
    image = jnp.full((50, 32, 32, 3), 7.0, jnp.bfloat16)
    narrow = random_erase(jax.random.key(0), image, 1.0)
    wide = random_erase(jax.random.key(0), image.astype(jnp.float32), 1.0)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_array_equal(narrow, wide.astype(jnp.bfloat16))
    assert values(narrow) > 1000
