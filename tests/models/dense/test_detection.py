"""Agreement of the networks of detection with torchvision's definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.dense.fpn import Fpn
from diffkd_jax.ops.roi_align import pool_boxes
from diffkd_jax.tasks.detection import two_stage
from diffkd_jax.tasks.detection.selection import Selection
from diffkd_jax.weights.torch.convert import import_state_dict
from diffkd_jax.weights.torch.names.classifiers import references
from tests.helpers.goldens import GOLDEN, relative_error
from tests.models.dense.test_segmentation import loaded, nchw, nhwc, read, regenerated

OF_TORCHVISION = {"0": "p3", "1": "p4", "2": "p5", "p6": "p6", "p7": "p7"}


OUTPUTS = {
    "class_logits": "out/cls_logits",
    "box_codes": "out/bbox_regression",
    "centreness": "out/bbox_ctrness",
}


@functools.cache
def pyramid():
    with np.load(GOLDEN / "dense" / "fpn.npz") as z:
        return dict(z)


@pytest.mark.parametrize(
    ("kind", "extra", "levels"),
    [
        ("none", "p5", ()),
        ("pool", "pool", ("p6",)),
        ("p6p7_on_p5", "p5", ("p6", "p7")),
        ("p6p7_on_c5", "c5", ("p6", "p7")),
    ],
)
def test_pyramids_of_odd_sizes(kind, extra, levels):
    golden = pyramid()
    maps = {level: nhwc(golden[f"in/c{level[1]}"]) for level in ("p3", "p4", "p5")}
    net = Fpn((*maps, *levels), 8, extra)
    template = jax.eval_shape(net.init, jax.random.key(0), maps)
    weights = {
        key.partition("/")[2]: value
        for key, value in golden.items()
        if key.startswith(("param/", f"param_{kind}/"))
    }
    rename = (
        (r"^lateral_p(\d)$", lambda m: f"inner_blocks.{int(m[1]) - 3}.0"),
        (r"^output_p(\d)$", lambda m: f"layer_blocks.{int(m[1]) - 3}.0"),
        (r"^extra_", "extra_blocks."),
    )
    variables = import_state_dict(weights, template, rename)
    found = jax.jit(net.apply)(variables, maps)
    named = {"p3": "c3", "p4": "c4", "p5": "c5"}
    named |= {"p6": "pool"} if kind == "pool" else {}
    assert list(found) == [*maps, *levels]
    for level, x in found.items():
        expected = golden[f"out/{kind}/{named.get(level, level)}"]
        assert relative_error(nchw(x), expected) < 1e-6, level


@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_one_stage_networks_equal_torchvision(kind):
    golden, model, variables, x = loaded(
        f"{kind}_resnet18", f"{kind}_network", "torchvision"
    )
    found = jax.jit(model.apply)(variables, x)
    check_pyramid(found["fpn"], golden)
    for output, key in OUTPUTS.items():
        if key in golden:
            rows = [np.asarray(y) for y in found[output].values()]
            assert {y.dtype for y in rows} == {np.dtype("float32")}
            rows = np.concatenate(rows, 1).reshape(golden[key].shape)
            assert relative_error(rows, golden[key]) < 1e-5, output
    anchors = np.concatenate([*found["anchors"].values()])
    np.testing.assert_array_equal(anchors, golden["out/anchors"])
    assert set(OUTPUTS) & set(found) == {k for k, v in OUTPUTS.items() if v in golden}


def check_pyramid(found, golden, names=OF_TORCHVISION):
    assert list(found) == list(names.values())
    for theirs, level in names.items():
        key = f"out/fpn/{theirs}" if f"out/fpn/{theirs}" in golden else f"out/{theirs}"
        part = nchw(found[level])[:, : golden[key].shape[1]]
        assert relative_error(part, golden[key]) < 1e-5, level


FASTER = {
    "num_classes": 4,  # without the background
    "anchor_sizes": (8, 16, 32, 64, 128),
    "before_nms": (60, 60),
    "proposals": (40, 40),
}


def test_pyramids_of_two_stage_networks_equal_torchvision():
    """The state dict of the golden has no heads, so the network has none."""
    golden, meta, x = read("resnet18_fpn_backbone")
    model = models.build_network("faster_rcnn_resnet18", num_classes=0)
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    weights = {f"backbone.{k}": v for k, v in regenerated(meta).items()}
    rename = references(model)["torchvision"]
    variables = import_state_dict(weights, template, rename)
    found = jax.jit(model.apply)(variables, x)["fpn"]
    names = {str(i): f"p{i + 2}" for i in range(4)} | {"pool": "p6"}
    check_pyramid(found, golden, names)


def test_two_stage_networks_equal_torchvision():
    golden, model, variables, x = loaded(
        "faster_rcnn_resnet18", "faster_rcnn_network", "torchvision", **FASTER
    )
    inner = {"capture_intermediates": True, "mutable": ["intermediates"]}
    found, layers = jax.jit(functools.partial(model.apply, **inner))(variables, x)
    rpn, roi = found["rpn"], found["roi"]
    for i, level in enumerate(rpn["objectness"]):
        for part, key in (("objectness", "objectness"), ("box_codes", "deltas")):
            expected = np.asarray(nhwc(golden[f"out/rpn/{key}/{i}"]))
            rows = np.asarray(rpn[part][level]).reshape(expected.shape)
            assert relative_error(rows, expected) < 1e-5, (part, level)
    anchors = np.concatenate([*rpn["anchors"].values()])
    np.testing.assert_array_equal(anchors, golden["out/anchors"])
    assert roi["valid"].all()
    for i in range(2):
        expected = golden[f"out/proposals/{i}"]
        np.testing.assert_allclose(roi["boxes"][i], expected, atol=1e-3)
    pooled = jax.vmap(pool_boxes)(
        {k: v for k, v in found["fpn"].items() if k != "p6"}, roi["boxes"]
    )
    pooled = nchw(pooled.reshape(80, 7, 7, -1))[:, :8]
    assert relative_error(pooled, golden["out/pooled"]) < 1e-4
    (inner,) = layers["intermediates"]["head_dense1"]["__call__"]
    inner = np.maximum(inner, 0).reshape(80, -1)[:, :64]
    assert relative_error(inner, golden["out/representation"]) < 1e-4
    for part, expected in {
        "class_logits": golden["out/class_logits"],
        "box_codes": golden["out/box_regression"],
    }.items():
        rows = roi[part].reshape(expected.shape)
        assert relative_error(rows, expected) < 1e-4, part
    size = jnp.tile(jnp.array(x.shape[1:3]), (2, 1))
    detect = functools.partial(two_stage.detect, selection=Selection(0.05, 0, 0.5, 100))
    boxes = jax.jit(detect)({"roi": roi}, size)
    for i in range(2):
        one = {name: np.asarray(value[i]) for name, value in boxes.items()}
        one = {name: value[one["valid"]] for name, value in one.items()}
        expected = {k: golden[f"detections/{i}/{k}"] for k in ("boxes", "scores")}
        np.testing.assert_array_equal(
            one["classes"] + 1, golden[f"detections/{i}/labels"]
        )
        np.testing.assert_allclose(one["boxes"], expected["boxes"], atol=1e-3)
        np.testing.assert_allclose(one["scores"], expected["scores"], atol=1e-5)
