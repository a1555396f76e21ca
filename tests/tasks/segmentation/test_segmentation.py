"""Loss, counts and scores of segmentation, against golden values and by brute force."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.named import call
from diffkd_jax.ops.resize import bilinear
from diffkd_jax.tasks import Evidence
from diffkd_jax.tasks.segmentation import plots
from diffkd_jax.tasks.segmentation.task import (
    class_iou,
    evidence,
    pixel_loss,
    score,
    segmentation,
)
from diffkd_jax.tasks.segmentation.windows import slide
from diffkd_jax.train.cluster.sharding import make_mesh
from diffkd_jax.train.evaluate import compile_evidence, gather_evidence
from tests.helpers.goldens import GOLDEN

ODD = GOLDEN / "dense/odd"
TASK = segmentation({"num_classes": 19})


def last(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def logits_of(label, classes):
    """Logits whose largest value is at the label; 255 has none."""
    return 5.0 * jax.nn.one_hot(label, classes)


def counted(prediction, truth, classes):
    batch = {"target": {"label": jnp.asarray(truth)}, "mask": jnp.ones(len(truth))}
    return evidence(logits_of(prediction, classes), batch)


@pytest.mark.parametrize("model", ["deeplabv3_resnet18", "pspnet_resnet18"])
def test_losses_and_predictions_of_the_reference(model):
    golden = np.load(GOLDEN / f"dense/{model}.npz")
    label = jnp.asarray(golden["in/label"])
    outputs = {n: last(golden[f"out/{n}"]) for n in ("logits", "aux_logits")}
    batch = {"image": jnp.zeros((*label.shape, 3)), "target": {"label": label}}
    losses = TASK.loss(outputs, batch)
    np.testing.assert_allclose(losses["task/main"], golden["loss/main"], rtol=1e-5)
    np.testing.assert_allclose(losses["task/aux"], 0.4 * golden["loss/aux"], rtol=1e-5)
    total = losses["task/main"] + losses["task/aux"]
    np.testing.assert_allclose(total, golden["loss/task"], rtol=1e-5)
    predicted = TASK.predict(outputs, batch)["label"]
    np.testing.assert_array_equal(predicted, golden["out/prediction"])


def test_logits_are_resized_before_a_class_is_chosen():
    golden = np.load(ODD / "resize_logits.npz")
    outputs = {"logits": jnp.asarray(golden["logits"])[None]}
    batch = {"image": jnp.zeros((1, 33, 49, 3))}
    for name, corners in (("corners", True), ("centres", False)):
        task = segmentation({"num_classes": 3}, align_corners=corners)
        found = task.predict(outputs, batch)["label"][0]
        np.testing.assert_array_equal(found, golden[f"prediction_{name}"])


def test_scores_of_the_reference():
    golden = np.load(GOLDEN / "dense/miou.npz")
    seen = counted(golden["in/prediction"], golden["in/label"], 19)
    np.testing.assert_array_equal(seen.sums["confusion"][:, :-1], golden["confusion"])
    np.testing.assert_allclose(
        class_iou(np.asarray(seen.sums["confusion"])), golden["iou"]
    )
    found = score(seen)
    assert found["miou"] == pytest.approx(float(golden["miou_over_present"]))
    assert found["accuracy"] == pytest.approx(float(golden["pixel_accuracy"]))


@pytest.mark.parametrize(
    ("name", "classes", "miou"),
    [("miou_cases", 5, 0.6590909090909091), ("counts", 19, 0.5786022136503032)],
)
def test_absent_classes_and_void_pixels(name, classes, miou):
    golden = np.load(ODD / f"{name}.npz")
    seen = counted(golden["prediction"], golden["truth"], classes)
    assert score(seen)["miou"] == pytest.approx(miou, abs=1e-12)
    expected = np.zeros((classes, classes + 1), int)
    for t, p in zip(golden["truth"].ravel(), golden["prediction"].ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    np.testing.assert_array_equal(seen.sums["confusion"], expected)


def test_counts_beyond_float32_and_int32_add_up():
    big = np.load(ODD / "counts.npz")["big_counts"]
    counts = np.concatenate([2 * big, np.zeros((2, 1), int)], 1)
    assert score(Evidence({"confusion": counts, "loss": 0.0}))["accuracy"] == (
        pytest.approx((2 * big).trace() / (2 * big).sum(), abs=1e-15)
    )


def test_pixels_that_do_not_count_carry_no_loss():
    golden = np.load(ODD / "ignored_batches.npz")
    value = jax.value_and_grad(pixel_loss)
    loss, gradient = value(golden["logits"], jnp.asarray(golden["all_ignored"]))
    assert loss == 0
    assert not gradient.any()
    loss, gradient = value(golden["logits"], jnp.asarray(golden["one_ignored"]))
    assert loss == pytest.approx(1.5447906322068838)
    assert np.isfinite(gradient).all()
    padded = np.load(ODD / "padding.npz")
    for side in (8, 16):
        pair = padded[f"logits_{side}"][None], padded[f"labels_{side}"][None]
        assert pixel_loss(*map(jnp.asarray, pair)) == pytest.approx(1.3082007799575042)


def test_what_is_not_finite_is_wrong():
    logits = logits_of(np.zeros((1, 2, 2), int), 3).at[0, 0].set(jnp.nan)
    batch = {"target": {"label": jnp.zeros((1, 2, 2), jnp.uint8)}, "mask": jnp.ones(1)}
    found = score(evidence(logits, batch))
    assert (found["miou"], found["accuracy"]) == (0.5, 0.5)


def test_nothing_to_count_is_undefined():
    seen = counted(np.zeros((1, 2, 2), int), np.full((1, 2, 2), 255, np.uint8), 3)
    assert np.isnan(score(seen)["miou"])
    assert TASK.goodness(score(seen)) == -np.inf


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_devices_count_alike(devices):
    """Seven images in a batch of eight, which the devices share."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, (8, 5, 7)).astype(np.uint8)
    truth[truth == 5] = 255
    prediction = rng.integers(0, 5, (8, 5, 7))
    mask = np.ones(8, np.float32)
    mask[-1] = 0
    batch = {
        "image": np.zeros((8, 5, 7, 3), np.float32),
        "target": {"label": truth},
        "index": np.arange(8),
        "mask": mask,
        "prediction": prediction,
    }
    mesh = make_mesh(devices)
    task = segmentation({"num_classes": 5})
    apply = lambda variables, batch: {"logits": logits_of(batch["prediction"], 5)}
    forward = compile_evidence(task.evidence, apply, lambda batch: batch, mesh)
    seen = gather_evidence(
        forward, {}, lambda should_stop: iter_of([batch, batch]), mesh
    )
    expected = np.asarray(counted(prediction[:7], truth[:7], 5).sums["confusion"])
    assert seen.sums["confusion"].dtype == np.int64
    np.testing.assert_array_equal(seen.sums["confusion"], 2 * expected)


def iter_of(batches):
    yield from batches


@pytest.mark.parametrize("corners", [True, False])
def test_windows_cover_a_image(corners):
    """A model that looks at single pixels gives the same in windows."""
    resize = functools.partial(bilinear, align_corners=corners)
    image = jax.random.normal(jax.random.key(0), (2, 13, 18, 3))
    apply = lambda batch: {"logits": batch["image"] @ jnp.eye(3, 4)}
    found = slide(apply, {"image": image}, window=(6, 8), stride=(4, 5), resize=resize)
    np.testing.assert_allclose(
        found["logits"], apply({"image": image})["logits"], atol=1e-6
    )
    large = slide(
        apply, {"image": image}, window=(99, 99), stride=(9, 9), resize=resize
    )
    np.testing.assert_allclose(large["logits"], found["logits"], atol=1e-6)


def test_windows_are_averaged_where_they_overlap():
    """A model that sees where a window begins."""
    image = jnp.zeros((1, 1, 6, 1))
    place = lambda batch: {"logits": jnp.arange(4.0).reshape(1, 1, 4, 1)}
    found = slide(place, {"image": image}, window=(1, 4), stride=(1, 2), resize=None)
    np.testing.assert_allclose(
        found["logits"].ravel(), [0, 1, (2 + 0) / 2, (3 + 1) / 2, 2, 3]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"window": (5,)},
            r"task.options.window: found \(5,\), expected \(\) or a height",
        ),
        ({"window": 16}, r"task.options.window: found 16, expected .* a height and a"),
        ({"aux_weight": "x"}, "task.options.aux_weight: found 'x', expected a number"),
        ({"aux_weight": float("nan")}, "aux_weight: found nan, expected a number at"),
        ({"aux_weight": -1.0}, r"aux_weight: found -1\.0, expected a number at"),
        ({"align_corners": "maybe"}, "align_corners: found 'maybe'"),
        ({"stride": (5, 5)}, r"task.options.stride: found \(5, 5\) without a window"),
        ({"window": (4, 4), "stride": (6, 2)}, r"stride: found \(6, 2\), expected at"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        call(segmentation, options, "task.options", {"num_classes": 3})


def test_other_logits_are_named():
    batch = {
        "image": jnp.zeros((1, 4, 4, 3)),
        "target": {"label": jnp.zeros((1, 4, 4))},
    }
    for shape in ((1, 19), (1, 4, 4, 21)):
        with pytest.raises(ValueError, match=r"expected \[b, h, w, 19\], a channel"):
            TASK.loss({"logits": jnp.zeros(shape)}, batch)


def test_figures(tmp_path):
    meta = {"num_classes": 3, "class_names": ["sky", "$_^$", "tree"]}
    label = np.array([[[0, 1], [2, 255]]], np.uint8)
    seen = counted(label, label, 3)
    files = plots.draw(tmp_path, seen, meta)
    rows = (tmp_path / "iou.csv").read_text().splitlines()
    assert rows[1] == "sky,1.0,1"
    examples = {
        "image": np.zeros((1, 2, 2, 1), np.uint8),
        "target": {"label": label},
        "predicted": {"teacher": {"label": label}, "diffkd": {"label": label}},
    }
    files += plots.show(tmp_path, examples, meta)
    assert [file.name for file in files] == ["iou.png", "masks.png"]
    assert all(file.stat().st_size > 1000 for file in files)
