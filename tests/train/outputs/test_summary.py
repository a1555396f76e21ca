"""Multiply-adds against figures computed by hand."""

import jax
import jax.numpy as jnp
import pytest

from diffkd_jax import DiffKD
from diffkd_jax.core.modules import NoisePredictor
from diffkd_jax.train.outputs.summary import count_multiply_adds

KEY = jax.eval_shape(lambda: jax.random.key(0))


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_noise_predictor_of_1024_channels():
    """It has two bottlenecks of (1, 9/4, 1) c^2 / 4 and one 1x1 convolution, at 7x7."""
    module, t = NoisePredictor(3), jnp.zeros(2, jnp.int32)
    x = image(2, 7, 7, 1024)
    init = lambda key, x: module.init(key, x, t, train=False)
    variables = jax.eval_shape(init, KEY, x)
    run = lambda v, x: module.apply(v, x, t, train=False)
    by_hand = 49 * (2 * (1024 * 256 * 2 + 9 * 256 * 256) + 1024 * 1024)
    assert count_multiply_adds(run, variables, x) == 2 * by_hand
    assert by_hand == pytest.approx(0.161e9, rel=0.01)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"), [(512, 512, 1.11e9), (1024, 2048, 1.29e9)]
)
def test_feature_blocks_of_the_paper(student, teacher, expected):
    """Counts one training step's forward pass at 7x7, with an autoencoder of 1024."""
    module = DiffKD(latent_channels=1024)
    pair = image(2, 7, 7, student), image(2, 7, 7, teacher)
    rngs = {"params": KEY, "diffusion": KEY}
    variables = jax.eval_shape(module.init, rngs, *pair)

    def run(variables, key, student, teacher):
        return module.apply(
            variables,
            student,
            teacher,
            rngs={"diffusion": key},
            mutable=["batch_stats"],
        )

    actual = count_multiply_adds(run, variables, KEY, *pair) / 2
    assert actual == pytest.approx(expected, rel=0.02)


def test_loops_count_every_step():
    w = jnp.ones((4, 4))

    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=5)[0]

    assert count_multiply_adds(loop, jnp.ones((2, 4))) == 5 * 2 * 4 * 4
