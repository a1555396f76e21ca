"""Files of networks of segmentation and of their backbones, in both formats."""

import json

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffkd_jax import import_weights
from diffkd_jax.models.model import by_path
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from diffkd_jax.weights.initial import start_from
from diffkd_jax.weights.loading import load_into
from diffkd_jax.weights.untrained import build_untrained
from diffkd_jax.weights.weights import open_weights
from tests.helpers.variables import random_variables

SHAPE = (32, 32, 3)
SMALL = {"aspp_channels": 4}
PLAIN = {"deep_stem": False, "align_corners": False, "head_dropout": 0.0}


def untrained(name, classes=5, **options):
    return build_untrained(name, options, {"num_classes": classes}, SHAPE)


def trained(name, classes=5, **options):
    model = untrained(name, classes, **options)
    return model._replace(variables=random_variables(model.module, SHAPE))


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("deeplabv3_resnet18", {}, "cirkd"),
        ("deeplabv3_resnet18", {"deep_stem": False}, "cirkd"),
        ("pspnet_resnet18", {"aux": False}, "cirkd"),
        ("deeplabv3_mobilenet_v2", {}, "cirkd"),
        ("deeplabv3_mobilenet_v2", {"aux": True, "width": 0.5}, "cirkd"),
        ("deeplabv3_resnet50", PLAIN, "cirkd"),
    ],
)
def test_the_reference_is_recognised(name, options, reference, tmp_path):
    options = options | SMALL
    model, file = trained(name, **options), tmp_path / "weights.safetensors"
    assert export_torch(file, model, reference) == reference
    loaded, found = load_torch(file, name, options, SHAPE)
    assert found == reference
    assert loaded.meta["num_classes"] == 5
    chex.assert_trees_all_equal(loaded.variables, model.variables)


def test_exports_load_back(tmp_path):
    options = {"rates": (1, 2, 3), "channels": (4, 4, 8, 8), "aux": True}
    model = trained("deeplabv3_resnet8", **options)
    export_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, model.variables)
    assert (loaded.module, loaded.meta) == (model.module, model.meta)


def test_no_reference_defines_those_for_small_images(tmp_path):
    with pytest.raises(ValueError, match=r"found '', expected one of \[\], those of"):
        export_torch(tmp_path / "file.safetensors", trained("deeplabv3_resnet8"))


@pytest.mark.parametrize(("own", "found"), [(True, "none"), (False, "one")])
def test_an_auxiliary_head_on_one_side_alone(own, found, tmp_path):
    """The message names it and does not list hundreds of names."""
    file = tmp_path / "weights.safetensors"
    export_torch(file, trained("pspnet_resnet18", aux=not own, **SMALL))
    message = f"auxiliary head: found {found} in the file, .*'auxlayer.block.4.weight'"
    with pytest.raises(ValueError, match=message):
        load_torch(file, "pspnet_resnet18", SMALL | {"aux": own}, SHAPE)


def test_what_does_not_fit_is_listed(tmp_path):
    file = tmp_path / "weights.safetensors"
    export_torch(file, trained("pspnet_resnet18", **SMALL))
    arrays = load_file(file)
    arrays["head.psp.conv9.0.weight"] = arrays.pop("head.psp.conv4.0.weight")
    arrays["auxlayer.block.1.bias"] = arrays["auxlayer.block.1.bias"][:3]
    save_file(arrays, file)
    with pytest.raises(ValueError, match="as 'pspnet_resnet18'") as found:
        load_torch(file, "pspnet_resnet18", SMALL, SHAPE)
    text = str(found.value)
    assert "missing (1):\n  head.psp.conv4.0.weight" in text
    assert "unexpected (1):\n  head.psp.conv9.0.weight" in text
    assert "mis-shaped (1):\n  auxlayer.block.1.bias: found (3,), expected (64" in text


def test_the_import_command_takes_options(tmp_path, capsys):
    options = PLAIN | SMALL
    model, file = trained("deeplabv3_resnet50", **options), tmp_path / "t.safetensors"
    export_torch(file, model, "torchvision")
    command = [
        f"--from={file}",
        f"--to={tmp_path / 'to'}",
        "--model=deeplabv3_resnet50",
    ]
    assert import_weights.main(command) == 1
    assert '{"deep_stem": false, "align_corners"' in capsys.readouterr().err
    assert import_weights.main([*command, f"--options={json.dumps(options)}"]) == 0
    assert "5 classes, named as by torchvision" in capsys.readouterr().out
    loaded = load_model(tmp_path / "to")
    assert loaded.meta["options"] == options
    chex.assert_trees_all_equal(loaded.variables, model.variables)
    for wrong in ("[]", "{", '"deep_stem"', "[" * 10**5):
        with pytest.raises(SystemExit):
            import_weights.main([*command, f"--options={wrong}"])
        assert "expected JSON {...}" in capsys.readouterr().err
    assert import_weights.main([*command, '--options={"deep": 1}', "--force"]) == 1
    assert "options: found 'deep', expected any of" in capsys.readouterr().err


def started(model, file, **options):
    """The variables of a student that starts from a file of its backbone."""
    found, spare = load_into(open_weights(file), model, "backbone")
    given = {"source": str(file), "into": "backbone", "spare": spare}
    return start_from(model.variables, found, **given | options)


@pytest.mark.parametrize(
    ("name", "options", "backbone", "own"),
    [
        ("deeplabv3_resnet18", {"deep_stem": False}, "resnet18", {}),
        ("pspnet_resnet18", {}, "resnet18", {"deep_stem": True}),
        ("deeplabv3_mobilenet_v2", {}, "mobilenet_v2", {}),
        ("deeplabv3_resnet8", {}, "resnet8", {}),
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_a_backbone_starts_from_its_own_file(
    name, options, backbone, own, ours, tmp_path
):
    """The file is that of a classifier with any number of classes, without its head."""
    classifier, file = trained(backbone, 7, **own), tmp_path / "file.safetensors"
    (export_model if ours else export_torch)(file, classifier)
    model = trained(name, **options | SMALL)
    model = model._replace(variables=jax.tree.map(np.zeros_like, model.variables))
    variables = by_path(started(model, file))
    known = by_path(classifier.variables)
    inside = {k for k in variables if k.split("/")[1] == "backbone"}
    for path in inside:
        place = path.replace("/backbone/", "/")
        np.testing.assert_array_equal(variables[path], known.pop(place))
    assert {k.split("/")[1] for k in known} <= {"head", "last_conv"}
    assert not any(variables[path].any() for path in set(variables) - inside)
    started(
        model, file, leave_out=["head/*"]
    )  # matches the head of the file, which is not used


def test_a_backbone_of_another_kind_is_refused(tmp_path):
    plain, deep = (tmp_path / f"{name}.safetensors" for name in ("plain", "deep"))
    export_torch(plain, trained("resnet18"))
    export_torch(deep, trained("resnet18", deep_stem=True))
    with pytest.raises(ValueError, match=r"no deep stem .* option deep_stem=False"):
        started(trained("deeplabv3_resnet18"), plain)
    with pytest.raises(
        ValueError, match="as backbone of 'deeplabv3_resnet18'"
    ) as found:
        started(trained("deeplabv3_resnet18", deep_stem=False), deep)
    text = str(found.value)
    assert "unexpected (15):" in text
    assert "conv1.weight: found (64, 3, 3, 3), expected (64, 3, 7, 7)" in text
    ours = tmp_path / "model.safetensors"
    export_model(ours, trained("resnet14"))
    with pytest.raises(ValueError, match="does not fit backbone: found"):
        started(trained("deeplabv3_resnet8"), ours)


def test_the_whole_network_starts_from_its_own_file(tmp_path):
    model, file = trained("pspnet_resnet18", **SMALL), tmp_path / "file.safetensors"
    export_torch(file, model)
    found, spare = load_into(open_weights(file), model, "")
    assert not spare
    chex.assert_trees_all_equal(found, model.variables)
