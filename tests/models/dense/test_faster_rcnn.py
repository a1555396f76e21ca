"""The boxes that the second stage of a detector receives, and trains on."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.fold import fold
from diffkd_jax.models.model import from_linen, split
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from tests.helpers.goldens import relative_error
from tests.helpers.variables import paths, random_variables
from tests.models.dense.test_detector import shapes
from tests.weights.test_segmenter_files import SHAPE, trained

OPTIONS = {
    "width": 8,
    "fpn_channels": 8,
    "levels": ("p2", "p3"),
    "anchor_sizes": (8.0, 16.0),
    "before_nms": (40, 30),
    "proposals": (24, 20),
    "samples": 12,
    "head_channels": 16,
}
NAME = "faster_rcnn_resnet18"
X = np.random.default_rng(0).standard_normal((2, 32, 48, 3)).astype(np.float32)
TARGET = {
    "boxes": np.array(
        [[[2, 2, 14, 12], [20, 8, 40, 30], [0, 0, 0, 0]], np.zeros((3, 4))], np.float32
    ),
    "valid": np.array([[True, True, False], [False] * 3]),
    "classes": np.array([[1, 3, 0], [0, 0, 0]], np.int32),
}
BATCH = {"image": X, "target": TARGET}


@functools.cache
def small():
    module = models.FasterRcnn(models.MODELS["resnet10"], 4, **OPTIONS)
    return from_linen(module), split(random_variables(module, X.shape[1:]))


@functools.cache
def applied(train):
    """One compiled function for all tests."""
    model, _ = small()
    return jax.jit(
        lambda params, state, batch, key: model.apply(
            params, state, batch, train=train, key=key
        )
    )


def run(batch, train=False, seed=0, params=None):
    _, (own, state) = small()
    return applied(train)(params or own, state, batch, jax.random.key(seed))[0]


def test_proposals_in_inference():
    roi = run(BATCH)["roi"]
    assert set(roi) == {"boxes", "valid", "class_logits", "box_codes"}
    assert roi["boxes"].shape == (2, 20, 4)
    assert roi["class_logits"].shape == (2, 20, 5)
    assert roi["box_codes"].shape == (2, 20, 20)
    assert {x.dtype for x in roi.values()} == {np.dtype("float32"), np.dtype(bool)}
    # Inference reads neither the targets nor the key.
    chex.assert_trees_all_equal(roi, run({"image": X}, seed=1)["roi"])


def test_padding_holds_no_proposals():
    size = np.array([[32, 48], [20, 16]], np.int32)
    roi = run({"image": X, "size": size})["roi"]
    whole = run({"image": X})["roi"]
    np.testing.assert_allclose(roi["boxes"][0], whole["boxes"][0], rtol=1e-5)
    boxes, valid = np.asarray(roi["boxes"][1]), np.asarray(roi["valid"][1])
    assert valid.any()
    assert (boxes[valid] <= [16, 20, 16, 20]).all()
    assert (whole["boxes"][1] > np.array([16, 20, 16, 20])).any()


def test_samples_in_training():
    roi = run(BATCH, train=True)["roi"]
    assert roi["boxes"].shape == (2, 12, 4)
    assert roi["class_logits"].shape == (2, 12, 5)
    assert roi["matched"].dtype == jnp.int32
    np.testing.assert_array_equal(roi["valid"], roi["weight"] > 0)
    matched, boxes = np.asarray(roi["matched"]), np.asarray(roi["boxes"])
    # True boxes are among the proposals, and a quarter of the samples has an object.
    assert 2 <= (matched[0] >= 0).sum() <= 3
    assert (matched[1] == -1).all()
    for box, row in zip(boxes[0], matched[0], strict=True):
        if row >= 0:
            assert overlap(box, TARGET["boxes"][0, row]) >= 0.5
        else:
            most = max(overlap(box, truth) for truth in TARGET["boxes"][0, :2])
            assert most < 0.5


def overlap(a, b):
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    both = np.prod(np.maximum(high - low, 0))
    return both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both)


def test_draws_follow_the_key():
    first, again, other = (run(BATCH, True, seed)["roi"] for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert (first["boxes"] != other["boxes"]).any()
    # Each image has its own draws.
    pair = {"image": X[[1, 1]], "target": jax.tree.map(lambda x: x[[1, 1]], TARGET)}
    boxes = run(pair, True)["roi"]["boxes"]
    assert (boxes[0] != boxes[1]).any()


def test_no_gradient_through_the_places_of_boxes():
    """The network for proposals learns by its own losses alone."""
    _, (params, _) = small()

    @jax.jit
    @jax.grad
    def slope(params):
        roi = run(BATCH, True, params=params)["roi"]
        return jnp.square(roi["class_logits"]).sum()

    gradient = slope(params)
    for name, part in gradient.items():
        moved = any(np.any(x) for x in jax.tree.leaves(part))
        assert moved == (not name.startswith("rpn") and name != "box_head"), name
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(part)), name


def test_training_needs_a_target():
    model, variables = small()
    for batch, found in (
        ({"image": X}, r"\[\]"),
        (BATCH | {"target": {"label": X}}, ""),
    ):
        with pytest.raises(ValueError, match=f"target: found {found}.*expected boxes"):
            jax.eval_shape(
                lambda batch: model.apply(
                    *variables, batch, train=True, key=jax.random.key(0)
                ),
                batch,
            )


def test_outputs_for_grey_images_of_odd_sizes():
    out, variables = shapes(NAME, (75, 97), 1)
    assert list(out["fpn"]) == ["p2", "p3", "p4", "p5", "p6"]
    assert "extra_p6" not in variables["params"]["fpn"]
    for level, x in out["fpn"].items():
        rows = 3 * x.shape[1] * x.shape[2]
        assert out["rpn"]["objectness"][level].shape == (2, rows)
        assert out["rpn"]["box_codes"][level].shape == (2, rows, 4)
        assert out["rpn"]["anchors"][level].shape == (rows, 4)
    assert out["roi"]["boxes"].shape == (2, 1000, 4)


def test_folding_is_of_the_backbone_alone():
    model, (params, state) = small()
    variables = {"params": params, **state}
    folded = fold(model.module, variables, X.shape[1:])
    assert not [path for path in paths(folded) if "norm" in path]
    run = jax.jit(model.module.apply)
    a, b = (run(v, X) for v in (variables, folded))
    assert (
        relative_error(b["rpn"]["objectness"]["p2"], a["rpn"]["objectness"]["p2"])
        < 1e-5
    )
    # Proposals of nearly equal scores may change places.
    a, b = (np.sort(np.asarray(x["roi"]["class_logits"]), axis=1) for x in (a, b))
    assert relative_error(b, a) < 1e-3


@pytest.mark.parametrize("reference", ["torchvision", "torchvision_2020"])
def test_state_dicts_go_both_ways(reference, tmp_path):
    model, file = trained(NAME, **OPTIONS), tmp_path / "weights.safetensors"
    assert export_torch(file, model, reference) == reference
    loaded, found = load_torch(file, NAME, OPTIONS, SHAPE)
    assert (found, loaded.meta["num_classes"]) == (reference, 5)
    chex.assert_trees_all_equal(loaded.variables, model.variables)


def test_exports_load_back(tmp_path):
    model = trained(NAME, **OPTIONS, aligned=True, sampling_ratio=None)
    export_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, model.variables)
    assert (loaded.module, loaded.meta) == (model.module, model.meta)
