"""The statistics of a random teacher are those of training images."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.models.model import split
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands.random_teacher import (
    ROUNDS,
    average_statistics,
    draw_random_teacher,
)
from diffkd_jax.train.commands.train import train
from diffkd_jax.train.teacher import draw_teacher
from tests.helpers.configs import tiny_config

DEEP = {"teacher.model": "resnet32", "teacher.options": {}}


def random_run(**fields):
    return build(tiny_config(method="random_teacher", **fields))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99, 0.999, 0.9997])
def test_statistics_are_those_of_the_batches_whatever_the_momentum(momentum):
    batches = np.random.default_rng(0).normal(3, 1, (16, 5)).astype(np.float32)
    initial = {"mean": jnp.zeros(5), "var": jnp.ones(5)}

    def apply(state, batch):
        new = {"mean": batch, "var": jnp.square(batch)}
        move = lambda old, new: momentum * old + (1 - momentum) * new
        return jax.tree.map(move, state, new)

    result = average_statistics(apply, initial, batches)
    weights = np.float64(momentum) ** np.arange(15, -1, -1)
    mean = (weights[:, None] * batches).sum(0) / weights.sum()
    square = (weights[:, None] * np.square(batches)).sum(0) / weights.sum()
    np.testing.assert_allclose(result["mean"], mean, rtol=2e-3)
    np.testing.assert_allclose(result["var"], square, rtol=2e-3)


def test_arrays_that_are_no_averages_keep_what_the_network_gives_them():
    """A count, a direction found by iteration, a constant, a value that is not one."""
    matrix = np.diag([3.0, 1.0]).astype(np.float32)
    initial = {
        "count": jnp.zeros((), int),
        "direction": jnp.ones(2) / np.sqrt(2),
        "constant": jnp.full(3, 7.0),
        "undefined": jnp.full(2, jnp.nan),
        "empty": jnp.zeros(0),
    }

    def apply(state, batch):
        moved = matrix @ state["direction"]
        moved = {"direction": moved / jnp.linalg.norm(moved)}
        return state | moved | {"count": state["count"] + 1}

    result = average_statistics(apply, initial, range(3))
    assert result["count"] == 3 * ROUNDS
    expected = np.array([27.0, 1.0]) / np.hypot(27, 1)
    np.testing.assert_allclose(result["direction"], expected, rtol=1e-5)
    np.testing.assert_array_equal(result["constant"], np.full(3, 7.0))
    assert np.isnan(result["undefined"]).all()
    assert result["empty"].shape == (0,)


class WithoutNorm(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(4, (3, 3), (4, 4))(x))
        return {"features": x, "logits": nn.Dense(self.num_classes)(x.mean((1, 2)))}


def without_norm(num_classes):
    return WithoutNorm(num_classes)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


KINDS = {
    "deep": DEEP,
    **{
        name: {"teacher.model": path, "teacher.options": {}}
        for name, path in [
            ("nnx", "tests.helpers.own_code:in_nnx"),
            ("equinox", "tests.helpers.own_equinox:in_equinox"),
            ("plain", "tests.helpers.own_code:plain"),
        ]
    },
    "linen": {},
}


@pytest.mark.parametrize("kind", KINDS)
def test_inference_gives_features_as_training_does(kind):
    """It holds for every library, and for a network whose features would grow."""
    run = random_run(**KINDS[kind])
    drawn = draw_teacher(run.teacher, run.shapes.batch, run.config.seed)
    settled = draw_random_teacher(run)
    batch = dict(next(iter(training_batches(run))))
    batch.pop("skipped")
    batch = run.data.normalise(batch)
    apply = lambda p, s, b, key: drawn.apply(p, s, b, train=True, key=key)
    trained, _ = jax.jit(apply)(*split(drawn.variables), batch, jax.random.key(0))
    inferred = jax.jit(settled.infer)(settled.variables, batch)
    initial = jax.jit(drawn.infer)(drawn.variables, batch)
    wanted = rms(trained["features"])
    assert rms(inferred["features"]) == pytest.approx(wanted, rel=0.1)
    if kind != "plain":  # which has a mean alone, close to its initial value
        assert rms(initial["features"]) != pytest.approx(wanted, rel=0.08)


@pytest.mark.slow
def test_the_teacher_is_the_same_on_any_number_of_devices():
    """To the bit: a resumed run may have others, and checks the checksum."""
    fields = {**DEEP, "teacher.model": "resnet8", "mesh.fsdp_min_bytes": 1}
    one, again, eight, other = (
        draw_random_teacher(random_run(**fields, **more)).meta["checksum"]
        for more in (
            {"num_devices": 1},
            {"num_devices": 1},
            {"num_devices": 8, "mesh.fsdp": 2},
            {"num_devices": 1, "seed": 1},
        )
    )
    assert one == again == eight != other


def test_a_network_without_statistics_stays_as_it_is():
    model = f"{__name__}:without_norm"
    run = random_run(**{"teacher.model": model, "teacher.options": {}})
    drawn = draw_teacher(run.teacher, run.shapes.batch, run.config.seed)
    settled = draw_random_teacher(run)
    assert settled.meta["checksum"] == drawn.meta["checksum"]
    jax.tree.map(np.testing.assert_array_equal, settled.variables, drawn.variables)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_random_teacher(tmp_path):
    config = tiny_config(method="random_teacher")
    calls = iter(range(10**6))
    with pytest.raises(Stopped):
        train(config, tmp_path, lambda: 15 if next(calls) > 12 else 0)
    record = json.loads((tmp_path / "config.json").read_text())
    expected = draw_random_teacher(build(config)).meta["checksum"]
    assert record["teacher_checksum"] == expected
    train(config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == record


def test_drawing_a_teacher_can_be_stopped():
    with pytest.raises(Stopped):
        draw_random_teacher(random_run(), lambda: 15)
