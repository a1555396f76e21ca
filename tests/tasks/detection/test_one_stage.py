"""Losses and detections of RetinaNet and FCOS equal torchvision's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.tasks.detection import one_stage
from diffkd_jax.tasks.detection.selection import Selection
from tests.helpers.goldens import GOLDEN

NAMES = {
    "class_logits": "cls_logits",
    "box_codes": "bbox_regression",
    "centreness": "bbox_ctrness",
}
LOSSES = {
    "class": "classification",
    "box": "bbox_regression",
    "centreness": "bbox_ctrness",
}
PADDED = 9  # rows of the truth


@pytest.fixture(scope="module", params=["retinanet", "fcos"])
def golden(request):
    with np.load(GOLDEN / "dense" / f"{request.param}_losses.npz") as z:
        return request.param, dict(z)


def levels_of(golden):
    """Row at which each level of the golden begins, without the first."""
    sizes = golden["in/level_sizes"].prod(-1)
    anchors = golden["in/anchors"]
    counts = sizes * (len(anchors) // sizes.sum())
    return np.cumsum(counts)[:-1]


def split(x, cuts, axis):
    parts = np.split(x, cuts, axis)
    return {f"p{3 + i}": jnp.asarray(part) for i, part in enumerate(parts)}


def outputs_of(golden):
    cuts = levels_of(golden)
    found = {"anchors": split(golden["in/anchors"], cuts, 0)}
    for name, theirs in NAMES.items():
        if f"in/{theirs}" in golden:
            x = golden[f"in/{theirs}"]
            found[name] = split(x[..., 0] if name == "centreness" else x, cuts, 1)
    return found


def target_of(golden):
    images = len(golden["in/cls_logits"])
    boxes = np.zeros((images, PADDED, 4))
    classes = np.zeros((images, PADDED), np.int32)
    valid = np.zeros((images, PADDED), bool)
    for i in range(images):
        own = golden[f"in/target{i}/boxes"]
        boxes[i, : len(own)] = own
        classes[i, : len(own)] = golden[f"in/target{i}/labels"]
        valid[i, : len(own)] = True
    return {"boxes": jnp.asarray(boxes), "classes": classes, "valid": valid}


def test_losses_and_gradients_equal_the_golden(golden):
    kind, golden = golden
    with jax.enable_x64(True):
        outputs, target = outputs_of(golden), target_of(golden)
        losses = getattr(one_stage, f"{kind}_losses")
        found = losses(outputs, target)
        assert set(found) == {k for k, v in LOSSES.items() if f"loss/{v}" in golden}
        for name, value in found.items():
            expected = golden[f"loss/{LOSSES[name]}"]
            np.testing.assert_allclose(value, expected, rtol=1e-10)
        for name, theirs in NAMES.items():
            # Each loss has a gradient of its own in the golden.
            loss = next((k for k, v in LOSSES.items()
                         if f"grad/{v}/{theirs}" in golden), None)  # fmt: skip
            if loss is None:
                continue
            gradient = jax.grad(lambda x, n=name, loss=loss: losses(
                outputs | {n: x}, target)[loss])(outputs[name])  # fmt: skip
            gradient = one_stage.join_levels(gradient)
            expected = golden[f"grad/{LOSSES[loss]}/{theirs}"].reshape(gradient.shape)
            np.testing.assert_allclose(gradient, expected, atol=1e-13)


@pytest.mark.parametrize("setting", ["default", "few", "none"])
def test_detections_equal_the_golden(golden, setting):
    _, golden = golden
    score, candidates, nms, count = golden[f"detections/{setting}/settings"]
    kept = Selection(float(score), int(candidates), float(nms), int(count), 0.0)
    with jax.enable_x64(True):
        outputs = outputs_of(golden)
        size = jnp.array(json.loads(str(golden["meta"]))["image"])
        size = jnp.broadcast_to(size, (3, 2))
        found = jax.device_get(one_stage.detect(outputs, size, kept))
    for i in range(3):
        expected = golden[f"detections/{setting}/{i}/boxes"]
        valid = found["valid"][i]
        assert valid.sum() == len(expected)
        assert valid[: len(expected)].all()
        own = {name: x[i][valid] for name, x in found.items()}
        np.testing.assert_allclose(own["boxes"], expected, atol=1e-9)
        scores = golden[f"detections/{setting}/{i}/scores"]
        np.testing.assert_allclose(own["scores"], scores, atol=1e-12)
        labels = golden[f"detections/{setting}/{i}/labels"]
        np.testing.assert_array_equal(own["classes"], labels)


def test_no_object_gives_finite_losses_and_gradients(golden):
    kind, golden = golden
    losses = getattr(one_stage, f"{kind}_losses")
    outputs = jax.tree.map(lambda x: x.astype(jnp.float32), outputs_of(golden))
    target = target_of(golden)
    target |= {"valid": np.zeros_like(target["valid"])}
    anchors = outputs.pop("anchors")

    def total(outputs):
        found = losses({**outputs, "anchors": anchors}, target)
        return sum(found.values()), found

    (_, found), gradient = jax.value_and_grad(total, has_aux=True)(outputs)
    assert found["box"] == 0
    assert np.isfinite(found["class"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    assert not any(x.any() for x in jax.tree.leaves(gradient["box_codes"]))


def test_by_batch_divides_by_the_objects_of_all_images():
    with np.load(GOLDEN / "dense/retinanet_losses.npz") as z:
        golden = dict(z)
    with jax.enable_x64(True):
        outputs, target = outputs_of(golden), target_of(golden)
        found = one_stage.retinanet_losses(outputs, target, by_batch=True)
    matched = golden["out/matched"]
    counts = np.maximum((matched >= 0).sum(1), 1)
    one = lambda i: {
        k: {n: x[i : i + 1] if k != "anchors" else x for n, x in v.items()}
        for k, v in outputs.items()
    }
    with jax.enable_x64(True):
        each = [
            one_stage.retinanet_losses(
                one(i), {k: v[i : i + 1] for k, v in target.items()}
            )
            for i in range(3)
        ]
    expected = sum(float(e["box"]) * n for e, n in zip(each, counts, strict=True))
    np.testing.assert_allclose(found["box"], expected / counts.sum(), rtol=1e-12)
