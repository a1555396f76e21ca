"""Boxes that follow their pictures: one view for all, and the batches they make."""

import json

import numpy as np
import pytest

from diffkd_jax.config.data import DataConfig
from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.images.encoded import Encoded
from diffkd_jax.data.images.objects import Objects, pad_objects
from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.data.sources import registry
from diffkd_jax.data.split import Split
from diffkd_jax.data.transforms import boxes as boxed
from diffkd_jax.data.transforms import views
from diffkd_jax.data.transforms.draws import Draws
from diffkd_jax.data.transforms.viewed import ExampleView
from diffkd_jax.data.transforms.views import View
from tests.helpers.data_options import data_options
from tests.helpers.goldens import GOLDEN
from tests.helpers.transforms import eval_transform, train_transform

ODD = GOLDEN / "dense/odd"
EXPECTED = json.loads((ODD / "index.json").read_text())


def bounds(mask):
    """Left, top, right and bottom of what is 1, or None."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def filled(size, box):
    left, top, right, bottom = box
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def random_box(rng, size):
    top, left = (int(rng.integers(side - 4)) for side in size)
    height, width = (
        int(rng.integers(4, side - at + 1))
        for side, at in zip(size, (top, left), strict=True)
    )
    return left, top, left + width, top + height


def test_the_box_of_the_moved_mask_is_the_moved_box():
    rng = np.random.default_rng(0)
    gone = 0
    for _ in range(400):
        size = tuple(int(n) for n in rng.integers(16, 60, 2))
        box = random_box(rng, size)
        view = views.draw_view(size, rng, canvas=(32, 40), scale=(0.5, 2.0), step=0.1)
        seen = views.view_mask(view, filled(size, box))
        found = bounds(seen == 1)
        (moved,) = views.view_boxes(view, np.array([box]), size)
        if found is None:
            gone += 1
            assert min(moved[2:] - moved[:2]) <= 1
        else:
            # A pixel is of the mask where its centre is: within half of one.
            assert abs(moved - found).max() <= 0.5 + 1e-5, (view, box)
    assert 0 < gone < 200


def test_mirrored_twice_is_as_it_was():
    expected = EXPECTED["mirror/coco.json"]["expected"]
    (entry,) = json.loads((ODD / "mirror/coco.json").read_text())["annotations"]
    x, y, w, h = entry["bbox"]
    size = 11, 17
    view = View(size, 0, 0, size, (16, 24), flip=True)
    once = views.view_boxes(view, np.array([[x, y, x + w, y + h]]), size)
    assert once.tolist() == [expected["mirrored_xyxy"]]
    assert views.view_boxes(view, once, size).tolist() == [expected["box_xyxy"]]


@pytest.mark.parametrize("flip", [False, True])
def test_pictures_are_fitted_by_one_factor(flip):
    rng = np.random.default_rng(1)
    for _ in range(100):
        size = tuple(int(n) for n in rng.integers(8, 90, 2))
        view = views.fit_view(size, 40, 66, (66, 66), flip=flip)
        assert max(view.whole) <= 66
        assert min(view.whole) <= 40
        assert min(view.whole) == 40 or max(view.whole) == 66
        box = random_box(rng, size)
        found = bounds(views.view_mask(view, filled(size, box)) == 1)
        (moved,) = views.view_boxes(view, np.array([box]), size)
        if found is not None:
            assert abs(moved - found).max() <= 0.5 + 1e-5


def targets(boxes, ignored=None):
    boxes = np.asarray(boxes, np.float32)
    count = len(boxes)
    objects = Objects(
        np.zeros(count, np.int32),
        boxes,
        np.arange(count, dtype=np.int32),
        np.zeros(count, bool) if ignored is None else np.array(ignored),
        np.arange(count, dtype=np.float32) + 10,
    )
    return pad_objects(objects, np.array([0]), count + 1)


def test_slivers_ignored_ones_and_the_smallest_are_left_out():
    boxes = [[0, 0, 9, 9], [0, 0, 4, 4], [5, 5, 9, 9], [0, 0, 9, 0.9], [1, 1, 8, 8]]
    target = targets(boxes, [False, False, False, False, True])
    view = ExampleView(views.whole_view((10, 10), (12, 12)), (10, 10))
    found = boxed.boxes_to_train(target, [view], 10)
    assert found["valid"].tolist() == [[True] * 3 + [False] * 3]
    assert found["classes"][0, :3].tolist() == [0, 1, 2]
    # The first of two equals.
    found = boxed.boxes_to_train(target, [view], 2)
    assert found["classes"].tolist() == [[0, 1]]
    cropped = View((10, 10), 0, 0, (10, 4), (12, 4))
    found = boxed.boxes_to_train(target, [ExampleView(cropped, (10, 10)), None], 10)
    assert found["boxes"][0, :2].tolist() == [[0, 0, 4, 9], [0, 0, 4, 4]]
    assert found["valid"].sum(1).tolist() == [2, 0]


def test_evaluation_leaves_none_out_and_knows_the_way_back():
    target = targets([[0, 0, 9, 0.9], [3, 4, 30, 20]], [True, False])
    size = 21, 32
    view = views.fit_view(size, 10, 0, (16, 16))
    found = boxed.boxes_to_evaluate(target, [ExampleView(view, size), None])
    assert found["valid"].tolist() == target["valid"].tolist()
    assert found["ignored"].tolist() == target["ignored"].tolist()
    np.testing.assert_array_equal(found["stored"], target["boxes"])
    np.testing.assert_allclose(found["scale"][0], (10 / 21, 15 / 32))
    assert found["stored_size"].tolist() == [[21, 32], [0, 0]]
    back = found["boxes"][0] / np.tile(found["scale"][0][::-1], 2)
    np.testing.assert_allclose(back, target["boxes"][0], rtol=1e-6)


def scene_options(**fields):
    options = {"size": 64, "count": 40, **fields.pop("options", {})}
    return data_options(name="scene_boxes", options=options, **fields)


def test_scenes_open_as_the_data_of_a_run():
    data = open_data(scene_options(augment="crop_flip", flip=True))
    assert data.train_shape == data.eval_shape == (64, 64, 3)
    assert data.target["boxes"].shape == (1, 4, 4)
    assert sorted(data.target) == ["boxes", "classes", "valid"]
    assert data.sized
    assert data.meta["num_classes"] == 10 == len(data.meta["palette"])


RESIZED = {"augment": "resize_flip", "train_size": (96, 96), "resize": 80}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment": "resized_crop", "image_size": 8}, "data.augment: found 'resized_"),
        ({"augment": "crop_flip", "padding": 4}, "data.padding: found 4, expected 0"),
        ({"rand_augment": 9.0}, "data.rand_augment: found 9.0, expected 0 for image"),
        ({"image_size": 32}, "data.image_size: found 32, expected 0 .*data.resize"),
        ({"augment": "resize_flip"}, r"data.train_size: found \(\), expected a heig"),
        (
            {"augment": "resize_flip", "train_size": (64, 64)},
            "data.resize: found 0, expected the shorter side",
        ),
        (
            {"augment": "resize_flip", "train_size": (64, 64), "resize": 80},
            r"data.train_size: found \(64, 64\), expected at least \(80, 80\)",
        ),
        ({"train_resize": (0,)}, r"data.train_resize: found \(0,\), expected shorter"),
        (
            {"train_resize": (48, 96)},
            r"data.train_resize: found \(48, 96\), expected \(\) for data.augment",
        ),
        (
            {"augment": "scale_crop_flip", "train_size": (64, 64), "resize": 80},
            "data.resize: found 80, expected 0 .* data.augment 'scale_crop_flip': tr",
        ),
        (
            {"resize": 80},
            "data.resize: found 80, expected 0 .* data.augment 'none': trai",
        ),
        ({"resize_longest": 96}, "data.resize_longest: found 96, expected 0 without"),
        (
            {**RESIZED, "scale": (0.75, 1.25)},
            r"data.scale: found \(0.75, 1.25\), expected the default \(0.5, 2.0\) for",
        ),
        (
            {**RESIZED, "scale_step": 0.0},
            "data.scale_step: found 0.0, expected the default 0.1 for data.augment 're",
        ),
        ({"two_canvases": True}, "data.two_canvases: found True, expected False with"),
        (
            {"max_objects": 0},
            "data.max_objects: found 0, expected an integer at least 1",
        ),
    ],
)
def test_fields_that_do_not_fit_boxes(given, message):
    with pytest.raises(ValueError, match=message):
        open_data(scene_options(**given))


def test_the_factors_that_resize_flip_leaves_alone_are_the_defaults():
    DataConfig(**RESIZED, scale=(0.5, 2.0), scale_step=0.1)
    assert open_data(scene_options(**RESIZED, canvas=(80, 80))).sized


def test_batches_of_scenes_on_one_canvas():
    options = scene_options(
        augment="resize_flip",
        train_size=(96, 96),
        canvas=(96, 112),
        resize=72,
        train_resize=(48, 96),
        flip=True,
        max_objects=3,
    )
    data = open_data(options)
    assert data.train_shape == (96, 96, 3)
    assert data.eval_shape == (96, 112, 3)
    batches = pipeline.train_batches(
        data.train,
        train_transform(options),
        batch_size=20,
        seed=0,
        num_epochs=2,
    )
    seen = list(batches)
    assert len(seen) == 4
    sides = np.concatenate([batch["size"] for batch in seen])
    assert {tuple(size) for size in sides.tolist()} == {(48, 48), (96, 96)}
    for batch in seen:
        target = batch["target"]
        assert batch["image"].shape == (20, 96, 96, 3)
        assert target["boxes"].shape == (20, 3, 4)
        assert (target["boxes"][target["valid"]] >= 0).all()
        assert (target["boxes"].max((1, 2)) <= batch["size"].max(1)).all()
        assert not target["boxes"][~target["valid"]].any()
    evaluated = list(
        pipeline.eval_batches(data.evaluation, eval_transform(options), batch_size=4)
    )
    raw = data.evaluation.fetch(np.arange(10))["target"]
    stored = np.concatenate([batch["target"]["stored"] for batch in evaluated])
    np.testing.assert_array_equal(stored[:10], raw["boxes"])
    for batch in evaluated:
        np.testing.assert_allclose(batch["target"]["scale"], 1.125)
        np.testing.assert_allclose(
            batch["target"]["boxes"], batch["target"]["stored"] * 1.125
        )


def test_an_unreadable_picture_is_replaced_with_its_boxes():
    scenes = registry.load("scene_boxes", options={"size": 64, "count": 8})
    split = scenes.splits["train"]

    def fetch(rows):
        batch = split.fetch(rows)
        images = [
            Encoded(b"", "broken") if row == 3 else image
            for row, image in zip(rows, batch["image"], strict=True)
        ]
        return batch | {"image": images}

    options = scene_options(augment="crop_flip")
    broken = Split(split.size, fetch)
    found = next(
        pipeline.train_batches(
            broken,
            train_transform(options),
            batch_size=8,
            seed=0,
            num_epochs=1,
        )
    )
    assert 3 in found["skipped"]
    for row, image, boxes in zip(
        found["index"], found["image"], found["target"]["boxes"], strict=True
    ):
        whole = train_transform(options)(
            split.fetch(np.array([row])), Draws(0, 0, np.array([row]))
        )
        assert image.any()
        np.testing.assert_array_equal(whole["target"]["boxes"][0], boxes)


def test_training_keeps_the_largest_of_130():
    golden = np.load(ODD / "dense_130.npz")
    x, y, w, h = golden["boxes_xywh"].astype(np.float32).T
    target = targets(np.stack([x, y, x + w, y + h], 1))
    size = tuple(int(side) for side in golden["size_wh"][::-1])
    found = boxed.boxes_to_train(
        target, [ExampleView(views.whole_view(size, size), size)], 100
    )
    assert found["valid"].shape == (1, 100)
    assert found["valid"].all()
    kept = found["classes"][0]
    area = w * h
    assert area[kept].min() >= np.delete(area, kept).max()
    assert (np.diff(kept) > 0).all()
    expected = np.sort(np.argsort(-area, kind="stable")[:100])
    np.testing.assert_array_equal(kept, expected)
