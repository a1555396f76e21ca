"""Batch norms take their statistics over groups, as in the official runs."""

import functools

import jax
import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.core.diffkd import DiffKDNoise
from diffkd_jax.core.norm import BatchNorm
from diffkd_jax.data import open_data
from diffkd_jax.train.components import make_method, make_model
from diffkd_jax.weights.files import load_model
from tests.helpers.configs import tiny_config


def test_a_tap_treats_each_group_as_a_batch():
    config = tiny_config()
    tap = make_method(resolve(config), 4).taps["features"]
    key = jax.random.split(jax.random.key(0), 5)
    student = jax.random.normal(key[0], (8, 3, 3, 6))
    teacher = jax.random.normal(key[1], (8, 3, 3, 5))
    noise = DiffKDNoise(
        student=jax.random.normal(key[2], teacher.shape),
        teacher=jax.random.normal(key[3], teacher.shape),
        t=jax.random.randint(key[4], (8,), 0, 1000),
    )
    whole, grouped = tap.block.clone(norm=BatchNorm), tap.block
    init = jax.jit(functools.partial(whole.init, noise=noise))
    variables = init(jax.random.key(1), student, teacher)

    def run(module, rows):
        part = jax.tree.map(lambda x: x[rows], noise)
        apply = jax.jit(
            lambda *x: module.apply(variables, *x, noise=part, mutable=True)
        )
        return apply(student[rows], teacher[rows])[0]

    actual = run(grouped, slice(0, 8))
    parts = [run(whole, slice(0, 4)), run(whole, slice(4, 8))]
    expected = np.concatenate([part.student for part in parts])
    np.testing.assert_allclose(actual.student, expected, atol=1e-4)
    assert np.abs(run(whole, slice(0, 8)).student - expected).max() > 1e-2
    losses = np.mean([part.diffusion_loss for part in parts])
    np.testing.assert_allclose(actual.diffusion_loss, losses, rtol=1e-5)


def test_the_exported_student_does_not_hold_the_group_size(tmp_path):
    fields = {"train.norm_group_size": 8, "train.max_steps": 2, "method": "none"}
    config = tiny_config(**fields | {"student.model": "resnet8"})
    with config.unlocked():
        config.student.options = {"channels": (4, 4, 4, 8)}
    data = open_data(resolve(config).data)
    student = make_model(
        "student", resolve(config).student, data, config.train.norm_group_size
    )
    assert student.module.norm_group_size == 8
    main.run(config, str(tmp_path))
    assert "norm_group_size" not in load_model(tmp_path).meta["options"]


@pytest.mark.parametrize("size", [5, -1])
def test_groups_must_fill_the_batch(size, tmp_path):
    config = tiny_config(**{"train.norm_group_size": size, "method": "none"})
    with pytest.raises(ValueError, match=rf"train\.norm_group_size: found {size}"):
        main.run(config, str(tmp_path))
