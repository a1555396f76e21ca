"""RandAugment's operations against those of timm 1.0.31, and the draws around them."""

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.transforms.draws import Draws
from diffkd_jax.data.transforms.randaugment import (
    OPERATIONS,
    color_jitter,
    rand_augment,
)
from tests.data.pipeline.test_batches import OPTIONS
from tests.helpers.goldens import GOLDEN
from tests.helpers.transforms import train_transform

FILL = (124, 116, 104)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "randaugment.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_the_reference(name, golden):
    picture = Image.fromarray(golden["image"])
    keys = [key for key in golden if key.startswith(f"{name}/")]
    assert len(keys) == 8
    for key in keys:
        _, sign, magnitude, interpolation = key.split("/")
        resample = Image.Resampling[interpolation.upper()]
        level = float(magnitude) / 10
        found = OPERATIONS[name](picture, level, int(sign), resample, FILL)
        np.testing.assert_array_equal(np.asarray(found), golden[key], key)


def test_every_operation_is_drawn_and_half_are_applied(golden):
    image, rng = golden["image"], np.random.default_rng(0)
    same = [(rand_augment(image, rng, layers=1) == image).all() for _ in range(400)]
    assert 0.4 < np.mean(same) < 0.65  # a few operations may change nothing


def test_magnitudes_are_drawn_around_the_mean(golden, monkeypatch):
    levels = []
    record = lambda image, level, *_: levels.append(level) or image
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, record)
    rng = np.random.default_rng(0)
    for _ in range(600):
        rand_augment(golden["image"], rng, magnitude=9.0, std=0.5)
    assert 520 < len(levels) < 680  # two a picture, half of them applied
    assert np.mean(levels) == pytest.approx(0.9, abs=0.01)
    assert np.std(levels) == pytest.approx(0.05, abs=0.01)
    assert max(levels) <= 1.0


def test_grey_pictures_keep_their_shape():
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 1), dtype=np.uint8)
    rng = np.random.default_rng(1)
    for _ in range(60):
        out = rand_augment(image, rng, mean=(0.3,))
        assert (out.shape, out.dtype) == (image.shape, np.uint8)
    again = [rand_augment(image, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_color_jitter_scales_within_its_range(golden):
    rng = np.random.default_rng(0)
    grey = np.full((4, 4, 3), 100, np.uint8)
    # On one flat grey, contrast and saturation change nothing.
    found = [color_jitter(grey, rng, 0.4)[0, 0, 0] for _ in range(300)]
    assert 60 <= min(found) < 66
    assert 134 < max(found) <= 140
    moved = color_jitter(golden["image"], rng, 0.4)
    assert (moved != golden["image"]).any()


def test_the_training_transform_uses_them(golden):
    options = OPTIONS.replace(augment="none", mean=(0.0,), std=(1.0,))
    batch = {"image": np.stack([golden["image"]] * 8)}
    draws = Draws(0, 0, np.arange(8))
    plain = train_transform(options)(batch, draws)
    for field, value in (("rand_augment", 9.0), ("color_jitter", 0.4)):
        changed = options.replace(**{field: value})
        out = train_transform(changed)(batch, draws)
        assert out["image"].shape == plain["image"].shape
        assert (out["image"] != plain["image"]).any()
