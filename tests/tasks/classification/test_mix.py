"""Mixup, CutMix and random erasing against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.tasks.classification.mix import mix, random_erase

SHAPE = (6, 16, 12, 3)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    image = rng.standard_normal(SHAPE).astype(np.float32)
    return {
        "image": jnp.asarray(image),
        "target": {"label": jnp.array([0, 1, 2, 3, 4, 0])},
    }


jitted = jax.jit(mix, static_argnames=("num_classes", "mixup", "cutmix", "switch"))


def mixed(batch, seed, **options):
    out = jitted(jax.random.key(seed), batch, num_classes=5, **options)
    return np.asarray(out["image"]), np.asarray(out["target"]["mixed"])


@pytest.mark.parametrize("seed", range(5))
def test_mixup_is_one_share_for_image_and_label(batch, seed):
    image, target = mixed(batch, seed, mixup=0.8)
    share = target[1, 1]
    assert 0 < share < 1
    x, y = np.asarray(batch["image"]), np.eye(5)[batch["target"]["label"]]
    np.testing.assert_allclose(image, share * x + (1 - share) * x[::-1], atol=1e-5)
    np.testing.assert_allclose(target, share * y + (1 - share) * y[::-1], atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_is_a_box_whose_area_is_the_share(batch, seed):
    image, target = mixed(batch, seed, cutmix=1.0)
    x = np.asarray(batch["image"])
    own, partner = (image == x).all(-1), (image == x[::-1]).all(-1)
    assert (own | partner).all()
    boxes = ~own[0]
    rows, columns = np.flatnonzero(boxes.any(1)), np.flatnonzero(boxes.any(0))
    assert boxes.sum() == len(rows) * len(columns)
    if len(rows):
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
    for other in own[1:]:
        np.testing.assert_array_equal(other, own[0])
    assert target[1, 1] == pytest.approx(own[0].mean(), abs=1e-6)
    assert target[1, 4] == pytest.approx(boxes.mean(), abs=1e-6)


def test_the_switch_chooses_between_them(batch):
    x = np.asarray(batch["image"])
    cut = []
    for seed in range(200):
        image, _ = mixed(batch, seed, mixup=0.8, cutmix=1.0, switch=0.25)
        cut.append(((image == x) | (image == x[::-1])).all())
    assert 0.15 < np.mean(cut) < 0.35
    never = mixed(batch, 0, mixup=0.8, cutmix=1.0, switch=0.0)[0]
    assert not (never == x).all(-1).any()


def test_shares_follow_the_beta_distribution(batch):
    shares = [mixed(batch, seed, mixup=0.4)[1][1, 1] for seed in range(300)]
    # Beta(a, a): mean one half, variance 1 / (4 (2 a + 1)).
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)
    assert np.var(shares) == pytest.approx(1 / (4 * 1.8), rel=0.2)


def test_erasing_draws_one_rectangle_of_noise():
    image = jnp.full((400, 20, 24, 3), 7.0)
    out = np.asarray(random_erase(jax.random.key(0), image, 0.25))
    erased = (out != 7.0).all(-1)
    np.testing.assert_array_equal(erased, (out != 7.0).any(-1))
    touched = erased.any((1, 2))
    assert 0.18 < touched.mean() < 0.32
    areas = []
    for one in erased[touched]:
        rows, columns = np.flatnonzero(one.any(1)), np.flatnonzero(one.any(0))
        assert one.sum() == len(rows) * len(columns)
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
        areas.append(one.mean())
    assert 0.01 < min(areas) < max(areas) < 0.38
    noise = out[erased]
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_all_is_a_function_of_the_key(batch):
    for options in ({"mixup": 0.8}, {"cutmix": 1.0}):
        first, again = (mixed(batch, 3, **options)[0] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert (first != mixed(batch, 4, **options)[0]).any()
