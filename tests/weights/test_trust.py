"""Exports from elsewhere: a file of weights may not say what to import or to call."""

import json
import struct

import chex
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffkd_jax import export_weights, import_weights
from diffkd_jax.models import MODELS, build_network
from diffkd_jax.weights.checks import check_finite
from diffkd_jax.weights.files import export_model, export_torch, load_model
from diffkd_jax.weights.paths import model_file
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.variables import random_variables

SHAPE = (8, 8, 3)
META = {
    "model": "resnet8",
    "options": {"channels": [4, 4, 4, 8]},
    "num_classes": 3,
    "class_names": [],
    "input_shape": [8, 8, 3],
}


def small(name="resnet8", options=META["options"]):
    meta = {"num_classes": 3, "class_names": ["ant", "bee", "cow"]}
    model = build_untrained(name, options, meta, SHAPE)
    return model._replace(variables=random_variables(model.module, SHAPE))


def with_metadata(path, text):
    """A real export whose metadata says something else."""
    export_model(path, small())
    save_file(load_file(path), path, {"diffkd_jax": text})
    return path


def test_a_name_in_a_file_is_not_imported(payload, tmp_path, capsys):
    name, proof = payload
    path = with_metadata(
        tmp_path / "model.safetensors", json.dumps(META | {"model": name})
    )
    for given in ("", "resnet8", "payload_of_a_file:other", "tests.own:make"):
        with pytest.raises(ValueError, match=rf"safetensors: .*'{name}'.*model=\.\.\."):
            load_model(path, given)
    command = [f"--from={tmp_path}", f"--to={tmp_path / 'out.safetensors'}"]
    assert export_weights.main(command) == 1
    assert name in capsys.readouterr().err
    assert not proof.exists()


def test_a_model_that_the_caller_names_is_loaded(payload, tmp_path):
    name, proof = payload
    made = small("tests.helpers.own_model:make", {"width": 2})
    export_model(tmp_path / "model.safetensors", made)
    loaded = load_model(tmp_path, "tests.helpers.own_model:make")
    chex.assert_trees_all_equal(loaded.variables, made.variables)
    assert loaded.module == made.module
    meta = made.meta | {"model": name}
    export_model(tmp_path / "model.safetensors", made._replace(meta=meta))
    assert not proof.exists()
    load_model(tmp_path, name)
    assert proof.exists()  # so the tests above would have seen it
    load_model(tmp_path)  # named once in this process, by its user


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "os:system"}, "options: found 'norm', expected any of"),
        ({"parent": None}, "options: found 'parent'"),
        ({"depth": 10**9}, "options: found 'depth'"),
        ({"dtype": "(2,)f4"}, r"options\.dtype: found '\(2,\)f4', expected one of"),
        ({"dtype": ["float32"]}, r"options\.dtype: found"),
        ({"channels": [4] * 100}, r"options\.channels: .* expected 4 values"),
        ({"channels": "abcd"}, r"options\.channels: found 'abcd'"),
        ({"channels": [0, 4, 4, 4]}, r"options\.channels: found"),
        ({"channels": [True, 4, 4, 4]}, r"options\.channels: found"),
        ({"norm_group_size": 1.5}, r"options\.norm_group_size: found 1\.5"),
        ({"num_classes": 4}, "num_classes"),
    ],
)
def test_options_of_a_file_are_checked(options, message, tmp_path):
    text = json.dumps(META | {"options": options})
    path = with_metadata(tmp_path / "model.safetensors", text)
    with pytest.raises(ValueError, match=rf"model\.safetensors: .*{message}"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin_t", {"window": 10**5}),
        ("efficientnet_b0", {"depth": 1e9}),
        ("efficientnet_b0", {"dropout": float("nan")}),
        ("mobilenet_v2", {"small_images": "yes"}),
    ],
)
def test_options_without_measure_are_refused_at_once(name, options):
    with pytest.raises(ValueError, match=rf"{name}.*options\.{next(iter(options))}"):
        build_network(name, num_classes=2, **options)


def test_every_model_takes_its_defaults():
    for name in MODELS:
        build_network(name, num_classes=2, dtype="bfloat16")
    build_network(
        "resnet18", num_classes=2, dtype=np.float32, groups=1, norm_group_size=None
    )


@pytest.mark.parametrize(
    "text",
    [
        *("not json", "", "[]", '"text"', "null", "{}", "[" * 100_000),
        '{"model": ' + "1" * 5000 + "}",
        *(
            json.dumps(META | change)
            for change in (
                *({"model": ["resnet8"]}, {"model": None}, {"options": []}),
                *({"num_classes": "3"}, {"num_classes": True}, {"num_classes": 10**30}),
                *({"input_shape": [8, 8]}, {"input_shape": [10**9, 8, 3]}),
                *({"class_names": ["one"]}, {"class_names": "abc"}),
            )
        ),
    ],
    ids=lambda text: text[:24],
)
def test_odd_metadata_is_one_line_that_names_the_file(text, tmp_path):
    path = with_metadata(tmp_path / "model.safetensors", text)
    with pytest.raises(ValueError, match=r"model\.safetensors: ") as found:
        load_model(path)
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 600


def test_floats_of_other_widths_become_those_of_the_model(tmp_path):
    path, made = tmp_path / "model.safetensors", small()
    export_model(path, made)
    arrays = load_file(path)
    half = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_file(half, path, {"diffkd_jax": json.dumps(made.meta)})
    loaded = load_model(path).variables["params"]["head"]["bias"]
    assert loaded.dtype == np.float32
    whole = {name: array.astype(np.int32) for name, array in arrays.items()}
    save_file(whole, path, {"diffkd_jax": json.dumps(made.meta)})
    with pytest.raises(ValueError, match="the first that differ"):
        load_model(path)


def test_dtypes_that_numpy_lacks_are_named(tmp_path):
    tensor = {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}
    metadata = {"diffkd_jax": json.dumps(META)}
    header = json.dumps({"__metadata__": metadata, "w": tensor}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(ValueError, match="found 'w' in F8_E4M3, expected one of"):
        load_model(path)


def test_files_have_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    export_model(tmp_path / "model.safetensors", small())
    export_torch(tmp_path / "torch.safetensors", small())
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    assert len(modes) == 1
    assert len(list(tmp_path.iterdir())) == 3  # and nothing unfinished


def test_weights_that_are_not_finite_are_named(tmp_path, capsys):
    made = small()
    check_finite("student", made.variables)
    made.variables["params"]["head"]["bias"][1] = np.inf
    with pytest.raises(
        ValueError, match="student: found 1 of 3 numbers of params/head"
    ):
        check_finite("student", made.variables)
    export_model(tmp_path / "model.safetensors", made)
    target = tmp_path / "torch.safetensors"
    assert export_weights.main([f"--from={tmp_path}", f"--to={target}"]) == 1
    assert "not finite" in capsys.readouterr().err
    assert not target.exists()


def test_the_average_of_a_workdir(tmp_path):
    raw, average = tmp_path / "model.safetensors", tmp_path / "model_ema.safetensors"
    average.write_text("")
    assert model_file(tmp_path) == average  # alone
    raw.write_text("")
    assert model_file(tmp_path) == raw
    assert model_file(tmp_path, "ema") == average
    average.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"model_ema\.safetensors: found nothing"
    ):
        model_file(tmp_path, "ema")


def test_unknown_home_directories_are_one_line():
    with pytest.raises(ValueError, match="~nobody-of-that-name/run: "):
        model_file("~nobody-of-that-name/run")


def test_the_export_command_takes_the_name_of_an_own_model(payload, tmp_path, capsys):
    name, _ = payload
    made = small()
    meta = made.meta | {"model": name, "options": {"width": 2}}
    variables = small("tests.helpers.own_model:make", {"width": 2}).variables
    made = made._replace(meta=meta, variables=variables)
    export_model(tmp_path / "model.safetensors", made)
    command = [f"--from={tmp_path}", f"--to={tmp_path / 'out.safetensors'}"]
    assert export_weights.main([*command, f"--model={name}"]) == 1
    assert "reference: found" in capsys.readouterr().err  # loaded; PyTorch has no such


def test_the_import_command_takes_the_average(tmp_path, capsys):
    path = tmp_path / "torch.safetensors"
    export_torch(path, small("resnet8", {}))
    command = ["--model=resnet8", f"--from={path}", f"--to={tmp_path / 'to'}"]
    assert import_weights.main([*command, "--weights=ema"]) == 1
    assert "without an average" in capsys.readouterr().err
    assert import_weights.main(command) == 0
    assert load_model(tmp_path / "to").meta["num_classes"] == 3
