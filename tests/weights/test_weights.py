"""A file of weights is opened once, and its header is read once."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from diffkd_jax.config.sections import Config, Student
from diffkd_jax.train.initial_state import check_initial_weights
from diffkd_jax.train.teacher import load_teacher
from diffkd_jax.weights import weights
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from diffkd_jax.weights.untrained import build_untrained
from diffkd_jax.weights.weights import open_weights
from tests.helpers.goldens import GOLDEN
from tests.helpers.variables import random_variables

SHAPE = (8, 8, 3)


@pytest.fixture
def headers(monkeypatch):
    """The paths of the files whose headers are read, in order."""
    paths, read = [], weights.safe_open

    def count(path, *arguments):
        paths.append(path.name)
        return read(path, *arguments)

    monkeypatch.setattr(weights, "safe_open", count)
    return paths


@pytest.fixture
def model():
    made = build_untrained("resnet8", {}, {"num_classes": 3}, SHAPE)
    return made._replace(variables=random_variables(made.module, SHAPE))


@pytest.mark.parametrize("write", [export_model, export_torch])
def test_a_start_reads_the_header_of_the_teacher_once(write, model, headers, tmp_path):
    write(tmp_path / "model.safetensors", model)
    load_teacher(tmp_path, model)
    assert headers == ["model.safetensors"]


@pytest.mark.parametrize("write", [export_model, export_torch])
def test_a_start_reads_the_header_of_the_student_once(write, model, headers, tmp_path):
    write(tmp_path / "model.safetensors", model)
    config = Config(student=Student(init=str(tmp_path)))
    batch = {"image": jax.ShapeDtypeStruct((1, *SHAPE), np.float32)}
    shapes = SimpleNamespace(batch=batch)
    check_initial_weights(SimpleNamespace(config=config, student=model, shapes=shapes))
    assert headers == ["model.safetensors"]


def test_open_weights_serve_in_place_of_a_path(model, headers, tmp_path):
    export_model(tmp_path / "ours.safetensors", model)
    ours = open_weights(tmp_path / "ours.safetensors")
    assert open_weights(ours) is ours
    (tmp_path / "ours.safetensors").unlink()  # all of it comes from the open file
    bias = load_model(ours).variables["params"]["head"]["bias"]
    np.testing.assert_array_equal(bias, model.variables["params"]["head"]["bias"])
    export_torch(tmp_path / "torch.safetensors", model)
    torch = open_weights(tmp_path / "torch.safetensors")
    assert load_torch(torch, "resnet8", {}, SHAPE)[1] == "cifar"
    assert headers == ["ours.safetensors", "torch.safetensors"]


def test_the_header_of_a_pth_file_is_not_looked_for(headers):
    opened = open_weights(GOLDEN / "torch_files/zip.pth")
    assert (opened.kind.name, dict(opened.metadata)) == ("a zip archive", {})
    with pytest.raises(ValueError, match=r"zip\.pth: found a zip archive, expected a"):
        opened.arrays  # noqa: B018
    assert not headers


def test_arrays_are_not_read_before_they_are_asked_for(tmp_path):
    """An array that could not be read does not keep the header from being read."""
    tensor = {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "w": tensor}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    opened = open_weights(path)
    assert opened.metadata == {"format": "pt"}
    with pytest.raises(ValueError, match="found 'w' in F8_E4M3"):
        opened.arrays  # noqa: B018
