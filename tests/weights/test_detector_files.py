"""Files of networks of detection and of their backbones, in both formats."""

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffkd_jax.models.model import by_path
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from tests.weights.test_segmenter_files import SHAPE, started, trained

SMALL = {"width": 8, "fpn_channels": 32, "tower_depth": 1}
CASES = [
    ("retinanet_resnet18", {"levels": ("p2", "p3"), "anchor_sizes": (8.0, 16.0)}),
    ("retinanet_resnet50", {"extra": "c5", "ratios": (0.5, 1.0)}),
    ("fcos_resnet18", {"levels": ("p3", "p4", "p5", "p6")}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("reference", ["torchvision", "torchvision_2020"])
def test_the_reference_is_recognised(name, options, reference, tmp_path):
    options = options | SMALL
    model, file = trained(name, **options), tmp_path / "weights.safetensors"
    assert export_torch(file, model, reference) == reference
    loaded, found = load_torch(file, name, options, SHAPE)
    assert found == reference
    assert loaded.meta["num_classes"] == 5
    chex.assert_trees_all_equal(loaded.variables, model.variables)


def test_names_of_the_files_of_2020(tmp_path):
    """torchvision renames these names when it loads such a file."""
    file = tmp_path / "weights.safetensors"
    options = SMALL | {"tower_depth": 2}
    export_torch(file, trained("retinanet_resnet18", **options), "torchvision_2020")
    names = set(load_file(file))
    assert {f"backbone.fpn.inner_blocks.{i}.weight" for i in range(3)} <= names
    head = "head.classification_head"
    assert {f"{head}.conv.{i}.bias" for i in (0, 2)} <= names
    assert "head.regression_head.conv.2.weight" in names
    assert {"backbone.body.layer4.1.bn2.running_var", f"{head}.cls_logits.bias"} < names


@pytest.mark.parametrize("name", ["retinanet_resnet10", "fcos_resnet18"])
def test_exports_load_back(name, tmp_path):
    options = SMALL | {"levels": ("p3", "p4"), "norm_train": True}
    options |= {"level_scales": True} if name.startswith("fcos") else {}
    model = trained(name, **options)
    export_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, model.variables)
    assert (loaded.module, loaded.meta) == (model.module, model.meta)


def test_what_does_not_fit_is_listed(tmp_path):
    file = tmp_path / "weights.safetensors"
    export_torch(file, trained("retinanet_resnet18", **SMALL))
    arrays = load_file(file)
    name = "backbone.fpn.extra_blocks.p6.weight"
    arrays["backbone.fpn.extra_blocks.p8.weight"] = arrays.pop(name)
    arrays["head.regression_head.bbox_reg.bias"] = np.zeros(24, np.float32)
    save_file(arrays, file)
    with pytest.raises(ValueError, match="as 'retinanet_resnet18'") as found:
        load_torch(file, "retinanet_resnet18", SMALL, SHAPE)
    text = str(found.value)
    assert f"missing (1):\n  {name}" in text
    assert "unexpected (1):\n  backbone.fpn.extra_blocks.p8.weight" in text
    assert "head.regression_head.bbox_reg.bias: found (24,), expected (36,)" in text


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("retinanet_resnet10", "resnet10"),
        ("fcos_resnet18", "resnet18"),
        ("faster_rcnn_resnet18", "resnet18"),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_a_backbone_starts_from_the_file_of_a_classifier(
    name, backbone, ours, tmp_path
):
    classifier, file = trained(backbone, 7, width=8), tmp_path / "file.safetensors"
    (export_model if ours else export_torch)(file, classifier)
    one_stage = not name.startswith("faster")
    options = SMALL if one_stage else {"width": 8, "head_channels": 8}
    model = trained(name, **options)
    model = model._replace(variables=jax.tree.map(np.zeros_like, model.variables))
    variables = by_path(started(model, file))
    known = by_path(classifier.variables)
    inside = {k for k in variables if k.split("/")[1] == "backbone"}
    for path in inside:
        place = path.replace("/backbone/", "/")
        np.testing.assert_array_equal(variables[path], known.pop(place))
    assert {k.split("/")[1] for k in known} == {"head"}
    assert not any(variables[path].any() for path in set(variables) - inside)
