"""The embedded scenes: the same bytes for the same index, and what is in them."""

import zlib

import numpy as np
import pytest

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.sources import registry
from diffkd_jax.data.sources.scene_painting import Recipe, compose
from diffkd_jax.data.sources.scenes import _visible_classes
from tests.helpers.data_options import data_options

# Of picture and mask; a change of these is another data set.
CHECKSUMS = {
    ("train", 64): [
        [309612563, 3113257319],
        [2626423638, 3779189770],
        [3070603416, 1326459942],
    ],
    ("test", 64): [
        [992441502, 1977762833],
        [1154591057, 3637758966],
        [1736201877, 3871311293],
    ],
    ("train", 128): [
        [1572089969, 3670095207],
        [2777497728, 958264987],
        [1262347320, 100256041],
    ],
}

# Of the targets of the rows 0, 1 and 1999 of 128 pixels.
BOXES = 3596496320


def scenes(split="train", **options):
    return registry.load("scenes", options=options).splits[split]


def checksums(split, rows):
    batch = split.fetch(np.array(rows))
    pairs = zip(batch["image"], batch["target"]["label"], strict=True)
    return [[zlib.crc32(x.tobytes()) for x in pair] for pair in pairs]


@pytest.mark.parametrize(("name", "size"), CHECKSUMS)
def test_scenes_are_the_same_bytes_everywhere(name, size):
    rows = [0, 1, 1999]
    assert checksums(scenes(name, size=size), rows) == CHECKSUMS[name, size]
    assert checksums(scenes(name, size=size), rows[::-1])[0] == CHECKSUMS[name, size][2]


def test_figures_are_those_of_the_recipe():
    for size, foreground in ((64, 0.22), (128, 0.18)):
        batch = scenes(size=size).fetch(np.arange(300 if size == 64 else 100))
        label = batch["target"]["label"]
        assert abs(((label > 0) & (label < 255)).mean() - foreground) < 0.03
        assert 0 < (label == 255).mean() < 0.02
        assert set(np.unique(label)) == {*range(11), 255}
        assert batch["image"].dtype == label.dtype == np.uint8
        # Levels all over the range, and colours.
        assert batch["image"].std() > 40


def test_what_is_little_seen_is_void():
    """Items of white squares: the first one mostly hidden by the last."""
    items = np.zeros((1, 28, 28), np.uint8)
    items[:, 4:24, 4:24] = 255
    hidden = 0
    for i in range(200):
        rng = np.random.default_rng(i)
        scene = compose(items, np.array([3]), rng, Recipe(48, 6, (0.9, 1.1)))
        image, mask = (
            scene.image,
            _visible_classes(scene.classes, scene.hidden)[scene.owner],
        )
        assert set(np.unique(mask)) <= {0, 4, 255}
        assert image.shape == (48, 48, 3)
        for part in (mask == 4, mask == 255):
            hidden += part.any()
    assert hidden > 200


def test_splits_have_items_of_their_own_and_sizes():
    data = registry.load("scenes", options={"count": 40})
    assert [data.splits[k].size for k in ("train", "test")] == [40, 10]
    assert registry.load("scenes").splits["test"].size == 2000
    assert data.class_names[0] == "background"
    assert len(data.class_names) == len(data.meta["palette"]) == 11
    same = checksums(data.splits["train"], [3]) == checksums(data.splits["test"], [3])
    assert not same


@pytest.mark.parametrize("size", [64, 128])
def test_boxes_are_those_of_the_masks(size):
    """Of the same pictures: what is visible of an object lies in its box."""
    rows = np.arange(40)
    masks = scenes(size=size).fetch(rows)
    boxes = registry.load("scene_boxes", options={"size": size}).splits["train"]
    batch = boxes.fetch(rows)
    np.testing.assert_array_equal(batch["image"], masks["image"])
    assert len(batch["target"]["boxes"][0]) == {64: 4, 128: 8}[size]
    for row, label in zip(rows, masks["target"]["label"], strict=True):
        target = {k: v[row] for k, v in batch["target"].items()}
        inside = np.zeros(label.shape, bool)
        areas = dict.fromkeys(range(10), 0)
        for k in np.flatnonzero(target["valid"]):
            left, top, right, bottom = target["boxes"][k].astype(int)
            inside[top:bottom, left:right] = True
            if not target["ignored"][k]:
                areas[target["classes"][k]] += target["area"][k]
                part = label[top:bottom, left:right] == target["classes"][k] + 1
                # Tight: the object touches each side.
                assert part[[0, -1]].any(1).all()
                assert part[:, [0, -1]].any(0).all()
        assert (label[~inside] == 0).all()
        assert areas == {k: (label == k + 1).sum() for k in range(10)}
        assert not target["boxes"][~target["valid"]].any()


def test_boxes_of_scenes_are_the_same_everywhere():
    split = registry.load("scene_boxes").splits["train"]
    target = split.fetch(np.array([0, 1, 1999]))["target"]
    found = zlib.crc32(b"".join(target[k].tobytes() for k in sorted(target)))
    assert found == BOXES
    assert split.size == 8000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, r"data.options.size: found 8, expected 32 to 512"),
        ({"size": "big"}, r"data.options.size: found 'big'"),
        ({"count": 0}, r"data.options.count: found 0"),
        ({"objects": -1}, r"data.options.objects: found -1"),
        ({"scale": (2.0, 1.0)}, r"data.options.scale: found \(2.0, 1.0\)"),
        ({"scale": 3}, r"data.options.scale: found 3"),
        ({"sides": 3}, r"data.options: found \['sides'\], expected any of \['count'"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        registry.load("scenes", options=options)


def test_they_open_as_the_data_of_a_run(caplog):
    options = {"size": 64, "count": 400}
    data = open_data(
        data_options(name="scenes", options=options, augment="crop_flip", flip=True)
    )
    assert data.train_shape == data.eval_shape == (64, 64, 3)
    assert data.target["label"].shape == (1, 64, 64)
    assert data.meta["num_classes"] == 11
    assert data.meta["image_size"] == [64, 64]
