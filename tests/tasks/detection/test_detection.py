"""Detection as a task: scores, predictions that are drawn and written."""

import json
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.models import build_network, from_linen
from diffkd_jax.named import call
from diffkd_jax.tasks.detection import task as detection_module
from diffkd_jax.tasks.detection.plots import write
from diffkd_jax.tasks.detection.task import collect_evidence, detection
from diffkd_jax.tasks.task import Evidence
from diffkd_jax.train.cluster.sharding import make_mesh
from diffkd_jax.train.evaluate import compile_evidence, gather_evidence

META = {"num_classes": 3, "class_names": ["a", "b", "c"]}
TRUTH = [[[4.0, 4, 24, 30], [30, 2, 60, 40]], [[1, 1, 9, 9], [0, 0, 0, 0]]]


def outputs_that_find(boxes, classes, stride=8, size=(48, 64)):
    """Outputs of RetinaNet with one anchor for each cell; some are objects' boxes."""
    places = (size[0] // stride) * (size[1] // stride)
    anchors = np.zeros((places, 4), np.float32)
    anchors[:] = [0, 0, stride, stride]
    logits = np.full((len(boxes), places, META["num_classes"]), -9.0, np.float32)
    codes = np.zeros((len(boxes), places, 4), np.float32)
    for i, own in enumerate(boxes):
        for j, (box, k) in enumerate(zip(own, classes[i], strict=True)):
            left, top, right, bottom = box
            width, height = right - left, bottom - top
            codes[i, j] = [
                ((left + right) / 2 - stride / 2) / stride,
                ((top + bottom) / 2 - stride / 2) / stride,
                np.log(width / stride),
                np.log(height / stride),
            ]
            logits[i, j, k] = 5.0 - j
    return {
        "class_logits": {"p3": jnp.asarray(logits)},
        "box_codes": {"p3": jnp.asarray(codes)},
        "anchors": {"p3": anchors},
    }


@pytest.fixture
def batch():
    return {
        "image": jnp.zeros((2, 48, 64, 3)),
        "mask": jnp.ones(2),
        "target": {
            "boxes": jnp.array(TRUTH),
            "classes": jnp.array([[0, 1], [2, 0]]),
            "valid": jnp.array([[True, True], [True, False]]),
        },
    }


@pytest.fixture
def perfect():
    return outputs_that_find([TRUTH[0], TRUTH[1][:1]], [[0, 1], [2]])


def test_perfect_detections_score_one_and_others_less(batch, perfect):
    task = detection(META)
    seen = jax.device_get(task.evidence(perfect, batch))
    scores = task.score(seen)
    assert scores["ap"] == pytest.approx(1.0)
    assert scores["ap50"] == pytest.approx(1.0)
    assert task.goodness(scores) == scores["ap"]
    wrong = outputs_that_find([TRUTH[0], TRUTH[1][:1]], [[0, 2], [2]])
    scores = task.score(jax.device_get(task.evidence(wrong, batch)))
    assert 0.3 < scores["ap50"] < 0.8


def test_scores_are_of_the_stored_image(batch, perfect):
    target = batch["target"] | {
        "scale": jnp.array([[0.5, 0.25], [2.0, 2.0]]),
        "stored_size": jnp.array([[96, 256], [24, 32]]),
        "stored": jnp.array(TRUTH) / jnp.array([[[0.25, 0.5] * 2], [[2.0] * 4]]),
        "ignored": jnp.zeros((2, 2), bool),
        "area": jnp.array([[40.0 * 80, 60 * 150], [16, 0]]),
    }
    task = detection(META)
    seen = jax.device_get(task.evidence(perfect, batch | {"target": target}))
    found = seen.rows["boxes"][seen.rows["valid"]]
    expected = target["stored"][target["valid"]]
    order = [0, 1, 2]
    np.testing.assert_allclose(found[order], expected, atol=1e-3)
    scores = task.score(seen)
    assert scores["ap"] == pytest.approx(1.0)
    assert scores["ap_small"] == scores["ap_medium"] == pytest.approx(1.0)


def test_undefined_figures_are_not_numbers_and_no_good(batch, perfect):
    nothing = batch["target"] | {"valid": jnp.zeros((2, 2), bool)}
    task = detection(META)
    scores = task.score(
        jax.device_get(task.evidence(perfect, {**batch, "target": nothing}))
    )
    assert np.isnan(scores["ap"])
    assert task.goodness(scores) == -np.inf


def test_nothing_is_found_in_padding(batch, perfect):
    small = {**batch, "size": jnp.array([[30, 40], [48, 64]])}
    found = detection(META).predict(perfect, small)
    boxes = np.asarray(found["boxes"])[0][np.asarray(found["valid"])[0]]
    assert len(boxes) == 2
    assert boxes[:, 2].max() <= 40
    assert boxes[:, 3].max() <= 30


@pytest.mark.parametrize("kind", ["retinanet_resnet10", "fcos_resnet18"])
def test_losses_of_models_have_names_of_parts(kind, batch):
    options = {"width": 8, "fpn_channels": 32, "tower_depth": 1}
    model = from_linen(build_network(kind, num_classes=3, **options))
    shapes = jax.eval_shape(lambda x: x, batch)
    params, state = jax.eval_shape(model.init, jax.random.key(0), shapes)
    outputs, _ = jax.eval_shape(
        lambda p, s, b: model.apply(p, s, b, train=True), params, state, shapes
    )
    losses = jax.eval_shape(detection(META).loss, outputs, shapes)
    parts = {"class", "box"} | ({"centreness"} if "fcos" in kind else set())
    assert set(losses) == {f"task/{part}" for part in parts}


def test_the_weight_of_boxes(batch, perfect):
    once, twice = (
        detection(META, box_weight=w).loss(perfect, batch) for w in (1.0, 2.0)
    )
    assert float(twice["task/box"]) == pytest.approx(2 * float(once["task/box"]))
    assert twice["task/class"] == once["task/class"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": 1.5}, "score: found 1.5"),
        ({"score": "abc"}, "score: found 'abc'"),
        ({"most": 0}, "most: found 0"),
        ({"most": True}, "most: found True"),
        ({"candidates": 2.5}, "candidates: found 2.5"),
        ({"nms": -1.0}, "nms: found -1.0"),
        ({"box_weight": -1}, "box_weight: found -1"),
        ({"beta": -1.0}, "beta: found -1.0"),
        ({"to_truth": 2.0}, "to_truth: found 2.0"),
        ({"size_limits": (5.0,)}, "size_limits: found"),
        ({"size_limits": ("a", "b")}, "size_limits: found .*, expected 2 values, each"),
        ({"size_limits": (96.0, 32.0)}, "size_limits: found"),
        ({"score": 1.0}, "score: found 1.0"),
        ({"score": float("nan")}, "score: found nan"),
        ({"by_batch": "maybe"}, "by_batch: found 'maybe', expected True or False"),
        ({"clamp_below": 7}, "clamp_below: found 7"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=f"task.options.{message}"):
        call(detection, options, "task.options", META)


@pytest.mark.parametrize(
    "options", [{"beta": 0.0}, {"by_batch": True, "to_truth": 0.0}]
)
def test_options_of_another_network_are_refused(options, batch, perfect):
    centred = perfect | {"centreness": {"p3": jnp.zeros((2, 48))}}
    outputs = centred if "by_batch" in options else perfect
    with pytest.raises(ValueError, match=r"task\.options\.\w+: found it for"):
        detection(META, **options).loss(outputs, batch)


def test_other_columns_than_classes_are_named(batch, perfect):
    with pytest.raises(ValueError, match="found class_logits of 3 columns, expected 4"):
        detection({"num_classes": 4}).loss(perfect, batch)


def test_figures_and_examples_are_drawn(batch, perfect, tmp_path):
    task = detection(META)
    seen = jax.device_get(task.evidence(perfect, batch))
    files = task.draw(tmp_path, seen, META)
    assert [f.name for f in files] == ["ap.png", "precision.png"]
    name, ap, half = (tmp_path / "ap.csv").read_text().splitlines()[1].split(",")
    assert (name, float(ap), float(half)) == ("a", *[pytest.approx(1.0)] * 2)
    found = jax.device_get(task.predict(perfect, batch))
    examples = {
        "image": np.zeros((2, 48, 64, 3), np.uint8),
        "target": jax.device_get(batch["target"]),
        "predicted": {"teacher": found, "student": found},
    }
    (file,) = task.show(tmp_path, examples, META)
    assert file.name == "boxes.png"
    assert file.stat().st_size > 5_000


def test_detections_are_written_in_ids_and_pixels_of_the_files(tmp_path):
    found = {
        "boxes": np.array([[8.0, 8, 40, 400], [0, 0, 0, 0]], np.float32),
        "scores": np.array([0.75, 0.0]),
        "classes": np.array([1, 0]),
        "valid": np.array([True, False]),
    }
    target = {"scale": np.array([2.0, 4.0]), "stored_size": np.array([50, 50])}
    predictions = [("a/b", found, {"id": "0007", "target": target})]
    write(tmp_path, iter(predictions), META | {"category_ids": [1, 17, 90]})
    assert json.loads((tmp_path / "detections.json").read_text()) == [
        {
            "image_id": "0007",
            "category_id": 17,
            "bbox": [2.0, 4.0, 8.0, 46.0],
            "score": 0.75,
        }
    ]


def test_evidence_without_what_a_split_adds_takes_boxes_as_they_are(batch, perfect):
    found = detection(META).predict(perfect, batch)
    rows = collect_evidence(found, batch).rows
    assert isinstance(collect_evidence(found, batch), Evidence)
    np.testing.assert_array_equal(rows["true/boxes"], batch["target"]["boxes"])
    assert not rows["true/ignored"].any()
    assert rows["true/area"][0, 0] == 20 * 26


@pytest.mark.parametrize("devices", [1, 8])
def test_each_image_counts_once_on_any_number_of_devices(devices, batch):
    """Seven images in two batches of eight, in another order, repetitions masked."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 30, (8, 4, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, 25, (8, 4, 2))], -1)
    moved = boxes + rng.uniform(-2, 2, boxes.shape)
    classes = rng.integers(0, 3, (8, 4))
    target = {
        "boxes": boxes.astype(np.float32),
        "classes": classes.astype(np.int32),
        "valid": rng.random((8, 4)) < 0.8,
    }
    task, mesh = detection(META), make_mesh(devices)
    # Outputs are taken by index, because padding repeats images.
    found = outputs_that_find(moved, classes)
    anchors = found.pop("anchors")

    def apply(variables, batch):
        of = {k: {"p3": v["p3"][batch["index"] % 8]} for k, v in found.items()}
        return {**of, "anchors": anchors}

    def batches(should_stop):
        for rows in ([6, 2, 0, 1, 0, 0, 0, 0], [3, 5, 4, 0, 1, 2, 3, 4]):
            counts = 4 if rows[0] == 6 else 3
            yield {
                "image": np.zeros((8, 48, 64, 3), np.float32),
                "index": np.array(rows),
                "mask": (np.arange(8) < counts).astype(np.float32),
                "target": {k: v[rows] for k, v in target.items()},
            }

    forward = compile_evidence(task.evidence, apply, lambda batch: batch, mesh)
    seen = gather_evidence(forward, {}, batches, mesh)
    np.testing.assert_array_equal(seen.rows["true/boxes"], target["boxes"][:7])
    whole = {"image": jnp.zeros((7, 48, 64, 3)), "mask": jnp.ones(7)}
    whole |= {"index": jnp.arange(7), "target": {k: v[:7] for k, v in target.items()}}
    expected = task.score(jax.device_get(task.evidence(apply({}, whole), whole)))
    assert task.score(seen) == pytest.approx(expected, abs=0, nan_ok=True)
    assert 0.1 < expected["ap"] < 0.9


def test_functions_that_change_the_form_of_a_box_exist():
    """The list in the docstring of the module names them."""
    text = detection_module.__doc__
    names = re.findall(r"``((?:data|ops|tasks)\.[\w.]+)``", text)
    assert len(names) == 10
    assert [n for n in names if pydoc.locate(f"diffkd_jax.{n}") is None] == []
