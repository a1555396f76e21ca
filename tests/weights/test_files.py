"""Models written and read back, in our format and in PyTorch's."""

import re
import subprocess
import sys

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffkd_jax import import_weights
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from diffkd_jax.weights.torch.names.classifiers import references
from diffkd_jax.weights.untrained import build_untrained
from diffkd_jax.weights.weights import is_ours, open_weights
from tests.helpers.variables import random_variables

SHAPE = (32, 32, 3)


def trained(name, **options):
    model = build_untrained(name, options, {"num_classes": 5}, SHAPE)
    return model._replace(variables=random_variables(model.module, SHAPE))


@pytest.mark.parametrize("name", ["resnet8", "swin_t"])
def test_exports_load_back(name, tmp_path):
    model = trained(name)
    export_model(tmp_path / "model.safetensors", model)
    assert is_ours(open_weights(tmp_path / "model.safetensors"))
    loaded = load_model(tmp_path)
    chex.assert_trees_all_equal(loaded.variables, model.variables)
    assert (loaded.module, loaded.meta) == (model.module, model.meta)


def references_of(*names):
    five = {"num_classes": 5}
    modules = {n: build_untrained(n, {}, five, SHAPE).module for n in names}
    return [(n, r) for n, module in modules.items() for r in references(module)]


@pytest.mark.parametrize(
    ("name", "reference"),
    references_of(
        *("resnet18", "mobilenet_v2", "efficientnet_b0", "efficientnet_lite2"),
        *("swin_t", "wrn_16_1", "vgg13", "shufflenet_v2", "mobilenet_v1"),
    ),
)
def test_the_reference_is_recognised(name, reference, tmp_path):
    """The file has the names of the reference, and transposed kernels."""
    model, file = trained(name), tmp_path / "weights.safetensors"
    assert export_torch(file, model, reference) == reference
    assert not is_ours(open_weights(file))
    loaded, found = load_torch(file, name, {}, SHAPE)
    assert found == reference
    assert loaded.meta["num_classes"] == 5
    chex.assert_trees_all_equal(loaded.variables, model.variables)


def test_what_does_not_fit_is_listed(tmp_path):
    file = tmp_path / "weights.safetensors"
    export_torch(file, trained("resnet18"))
    arrays = load_file(file)
    arrays["layer9.weight"] = arrays.pop("conv1.weight")
    arrays["bn1.bias"] = arrays["bn1.bias"][:3]
    save_file(arrays, file)
    with pytest.raises(ValueError, match="safetensors, as 'resnet18'") as found:
        load_torch(file, "resnet18", {}, SHAPE)
    text = str(found.value)
    assert "missing (1):\n  conv1.weight" in text
    assert "unexpected (1):\n  layer9.weight" in text
    assert "mis-shaped (1):\n  bn1.bias: found (3,), expected (64,)" in text
    with pytest.raises(ValueError, match=r"as 'resnet50'.*\nmissing"):
        load_torch(file, "resnet50", {}, SHAPE)


def test_unknown_references_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"found 'keras', expected one of \['torchv"):
        export_torch(tmp_path / "file.safetensors", trained("resnet18"), "keras")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=False
    )


def test_commands_there_and_back(tmp_path):
    """Export a student as PyTorch loads it, and import that file as a teacher."""
    model, run = trained("resnet18"), tmp_path / "run"
    export_model(run / "model.safetensors", model)
    file = tmp_path / "torch.safetensors"
    done = command("diffkd_jax.export_weights", f"--from={run}", f"--to={file}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("resnet18, named as by torchvision")
    line = import_weights.convert("resnet18", str(file), str(tmp_path / "to"), SHAPE)
    assert re.search(r"resnet18, 11,179,077 parameters, 5 classes", line)
    chex.assert_trees_all_equal(load_model(tmp_path / "to").variables, model.variables)


def test_the_import_command_reports_errors(tmp_path):
    arguments = [
        "--model=resnet50",
        f"--from={tmp_path / 'no.pth'}",
        f"--to={tmp_path}",
    ]
    done = command("diffkd_jax.import_weights", *arguments)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("found nothing, expected a file of weights")
    assert not list(tmp_path.iterdir())


def test_non_contiguous_arrays_are_written_as_they_are(tmp_path):
    model = trained("resnet8")
    turned = {"params": {}, **model.variables}
    kernel = turned["params"]["head"]["kernel"]
    turned["params"]["head"]["kernel"] = np.asarray(kernel.T.copy()).T
    assert not turned["params"]["head"]["kernel"].flags.c_contiguous
    export_model(tmp_path / "model.safetensors", model._replace(variables=turned))
    found = load_model(tmp_path).variables["params"]["head"]["kernel"]
    np.testing.assert_array_equal(found, kernel)
