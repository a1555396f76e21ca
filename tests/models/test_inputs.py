"""A model knows which images it takes, and refuses others with a message."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from diffkd_jax import export_weights, import_weights
from diffkd_jax.data.transforms.normalise import normalise
from diffkd_jax.models import Model
from diffkd_jax.models.inputs import describe_input, input_difference
from diffkd_jax.weights.files import export_model, export_torch, load_model, load_torch
from diffkd_jax.weights.untrained import build_untrained
from diffkd_jax.weights.weights import open_weights, read_input
from tests.helpers.goldens import GOLDEN
from tests.helpers.variables import random_variables

SHAPE = (8, 8, 3)
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
OPTIONS = {"channels": [4, 4, 4, 8]}


def small(shape=SHAPE, name="resnet8", options=OPTIONS, **meta):
    known = {"num_classes": 3, "mean": MEAN, "std": STD} | meta
    model = build_untrained(name, options, known, shape)
    return model._replace(variables=random_variables(model.module, shape))


@pytest.fixture
def student(tmp_path):
    """A model of images of 8x8 with three channels, from a file."""
    export_model(tmp_path / "model.safetensors", small())
    return load_model(tmp_path)


def images(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def test_an_export_says_its_normalisation(tmp_path):
    path = tmp_path / "model.safetensors"
    export_model(path, small())
    with safe_open(path, "numpy") as file:
        said = json.loads(file.metadata()["diffkd_jax"])
    assert (said["mean"], said["std"], said["channel_order"]) == (MEAN, STD, "RGB")
    assert said["input_shape"] == [8, 8, 3]
    assert load_model(path).meta == said


def test_one_number_is_one_for_each_channel():
    known = describe_input({"mean": (0.5,), "std": (0.25,)}, 3)
    assert known == {"mean": [0.5] * 3, "std": [0.25] * 3, "channel_order": "RGB"}
    assert describe_input({"mean": [0.5], "std": [0.25]}, 1)["channel_order"] == "L"
    assert describe_input({"mean": [0.5], "std": [0.25]}, 4)["channel_order"] == ""
    own = {"mean": [0.5], "std": [0.25], "channel_order": "BGR"}
    assert describe_input(own, 3)["channel_order"] == "BGR"


def test_the_file_for_pytorch_says_it_too_and_an_import_keeps_it(tmp_path):
    path = tmp_path / "torch.safetensors"
    export_torch(path, small())
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "pt"
    loaded, _ = load_torch(path, "resnet8", OPTIONS, (224, 224, 3))
    for field in ("mean", "std", "channel_order", "input_shape"):
        assert loaded.meta[field] == small().meta[field]
    options = json.dumps(OPTIONS)
    command = ["--model=resnet8", f"--from={path}", f"--options={options}"]
    assert import_weights.main([*command, f"--to={tmp_path / 'to'}"]) == 0
    assert load_model(tmp_path / "to").meta["mean"] == MEAN


def test_an_import_is_told_what_no_file_says(tmp_path, capsys):
    path = tmp_path / "torch.safetensors"
    export_torch(path, small(mean=[], std=[]))
    options = json.dumps(OPTIONS)
    command = ["--model=resnet8", f"--from={path}", f"--options={options}"]
    values = ["--mean=0.485,0.456,0.406", "--std=(0.229,0.224,0.225)"]
    assert import_weights.main([*command, *values, f"--to={tmp_path / 'a'}"]) == 0
    assert load_model(tmp_path / "a").meta["mean"] == [0.485, 0.456, 0.406]
    for wrong in (
        ["--mean=0.5"],
        ["--mean=124", "--std=58"],
        ["--mean=.5,.5", "--std=1"],
    ):
        target = f"--to={tmp_path / 'b'}"
        assert import_weights.main([*command, *wrong, target]) == 1
        assert "--mean=" in capsys.readouterr().err
        assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": 0.5},
        {"mean": None},
        {"mean": "0.5"},
        {"mean": [0.5]},
        {"mean": [0.5] * 10**5},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": [0.5, 0.5, True]},
        {"mean": [0.5, 0.5, 124.0]},
        {"mean": [0.5, 0.5, 10**400]},
        {"mean": [0.5, 0.5, [0.5]]},
        {"mean": []},
        {"std": [0.5, 0.5, 0]},
        {"std": [0.5, 0.5, -1]},
        {"std": [0.5, 0.5, float("inf")]},
        {"channel_order": None},
        {"channel_order": "RGB" * 10**4},
        {"channel_order": "RGB\n"},
        {"input_shape": [8, 8]},
    ],
    ids=lambda change: str(change)[:30],
)
@pytest.mark.parametrize("key", ["diffkd_jax", "diffkd_jax_input"])
def test_what_cannot_be_is_refused(change, key, tmp_path):
    export, path = small(), tmp_path / "model.safetensors"
    (export_model if key == "diffkd_jax" else export_torch)(path, export)
    metadata = {key: json.dumps({**export.meta, **change})}
    save_file(load_file(path), path, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors: metadata") as found:
        read_input(open_weights(path))
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 500 + len(str(path))


def test_exports_of_earlier_versions_know_nothing(tmp_path):
    meta = dict(small().meta)
    for field in ("mean", "std", "channel_order"):
        del meta[field]
    path = tmp_path / "model.safetensors"
    export_model(path, small()._replace(meta=meta))
    model = load_model(path)
    assert (model.meta["mean"], model.meta["channel_order"]) == ([], "")
    assert not input_difference(model.meta, small(mean=[0.1], std=[0.1]).meta)
    model(images(2, 12, 12, 3) / 255)  # its size is a note
    for call in (model, model.normalise):
        with pytest.raises(ValueError, match=r"data\.mean and data\.std of its run"):
            call(images(2, 8, 8, 3))
    for study in ("2026-11-23_cifar10", "2026-11-23_fashion_mnist"):
        file = GOLDEN.parents[1] / "experiments" / study / "teacher.safetensors"
        assert load_model(file).meta["mean"] == []


def test_rounded_values_are_the_same():
    known = small().meta
    for mean, std in (
        (MEAN, STD),
        ([0.491, 0.482, 0.447], [0.247, 0.244, 0.262]),
        ([m + 1e-8 for m in MEAN], STD),
    ):
        assert not input_difference(known, small(mean=mean, std=std).meta)
    for mean, std in (
        ([0.485, 0.456, 0.406], STD),
        (MEAN, [0.229, 0.224, 0.225]),
        (MEAN[::-1], STD[::-1]),
        ((0.0,), (1.0,)),
    ):
        other = small(mean=mean, std=std).meta
        said = input_difference(known, other)
        assert "mean (0.4914, 0.4822, 0.4465)" in said
        assert str(next(iter(other["mean"]))) in said
        assert '--config.data.mean="(0.4914, 0.4822, 0.4465)"' in said
    assert "order RGB, expected BGR" in input_difference(
        known, small(channel_order="BGR").meta
    )
    assert "of 3 channels, expected 1" in input_difference(
        known, small((8, 8, 1), mean=[0.5], std=[0.5]).meta
    )


def test_a_student_normalises_as_in_training(student):
    given = images(4, 8, 8, 3)
    expected = normalise(given, MEAN, STD)
    np.testing.assert_array_equal(student.normalise(given), expected)
    np.testing.assert_array_equal(student.normalise(jnp.asarray(given)), expected)
    np.testing.assert_array_equal(student.normalise(given.astype(np.int64)), expected)
    np.testing.assert_array_equal(student.normalise(given.tolist()), expected)
    found = student(student.normalise(given))["logits"]
    by_hand = student.infer(student.variables, {"image": expected})["logits"]
    np.testing.assert_array_equal(found, by_hand)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(4, 8, 8, 3, dtype=np.float32), "found float32, expected uint8"),
        (images(4, 8, 8, 3).astype(np.uint16) * 257, r"found uint16 of \d+ to 65"),
        (images(4, 8, 8, 3).astype(np.int16) - 128, "found int16 of -1.. to 1"),
        (images(4, 8, 8, 1), r"expected \[b, 8, 8, 3\]: 3 channels"),
        (images(8, 8, 3), r"images\[None\] is a batch of one"),
        (images(4, 3, 8, 8), r"images\.transpose\(0, 2, 3, 1\)"),
    ],
)
def test_what_is_not_normalised(given, message, student):
    with pytest.raises(ValueError, match=f"^images: .*{message}"):
        student.normalise(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(4, 8, 8, 3), r"found uint8, expected floating .*model\.normalise"),
        (images(4, 8, 8, 3, dtype=np.int32), "found int32, expected floating point"),
        (images(4, 8, 8, 3) > 9, "found bool, expected floating point"),
        (jnp.asarray(images(4, 8, 8, 3)), "found uint8"),
        (images(4, 8, 8, 3).tolist(), "found int64"),
        ("image.png", "expected floating point"),
        (np.zeros((8, 8, 3)), r"\(8, 8, 3\), expected \[b, 8, 8, 3\]; images\[None\]"),
        (np.zeros((2, 4, 8, 8, 3)), r"expected \[b, 8, 8, 3\]"),
        (np.zeros(()), r"expected \[b, 8, 8, 3\]"),
        (np.zeros((4, 3, 8, 8)), r"channels come last; images\.transpose"),
        (np.zeros((4, 8, 8, 1)), r"\(4, 8, 8, 1\), expected \[b, 8, 8, 3\]"),
        (np.zeros((4, 8, 8, 4)), r"\(4, 8, 8, 4\), expected \[b, 8, 8, 3\]"),
        (
            np.zeros((4, 9, 8, 3)),
            "found 9x8 pixels, expected 8x8, on which the model was evaluated; resize",
        ),
    ],
)
def test_a_student_takes_normalised_images_alone(given, message, student):
    with pytest.raises(ValueError, match=f"^images: .*{message}") as found:
        student(given)
    assert len(str(found.value).splitlines()) == 1


def test_floats_of_0_to_255_are_said(student, caplog):
    caplog.set_level(logging.WARNING)
    student(student.normalise(images(4, 8, 8, 3)))
    student(np.random.default_rng(0).normal(size=(4, 8, 8, 3)))
    assert not caplog.records
    student(images(4, 8, 8, 3, dtype=np.float32))
    assert "values of 0 to 255, where those of normalised images are" in caplog.text
    caplog.clear()
    student(images(4, 8, 8, 3) / 255)
    assert "values of 0 to 1, as those of images that are not normal" in caplog.text
    plain = small(mean=[0.0], std=[1.0])
    caplog.clear()
    plain(plain.normalise(images(4, 8, 8, 3)))
    assert not caplog.records


def test_a_traced_call_checks_types_and_shapes_alone(student):
    forward = jax.jit(lambda x: student(x)["logits"])
    given = student.normalise(images(4, 8, 8, 3))
    np.testing.assert_allclose(forward(given), student(given)["logits"], atol=1e-5)
    with pytest.raises(ValueError, match="found uint8"):
        forward(images(4, 8, 8, 3))


def test_networks_of_maps_take_any_size():
    options = {"channels": [4, 4, 4, 8]}
    model = small((32, 32, 3), "deeplabv3_resnet8", options)
    assert model(np.zeros((1, 48, 40, 3), np.float32))["logits"].shape[0] == 1


def test_a_model_that_fails_at_another_size_says_so():
    def apply(params, state, batch, *, train, key=None):
        return {"logits": batch["image"].reshape(-1, 192) @ jnp.ones((192, 3))}, state

    meta = {"input_shape": [8, 8, 3], "mean": MEAN, "std": STD}
    model = Model(lambda key, batch: ({}, {}), apply, meta, variables={"params": {}})
    assert model(np.zeros((2, 8, 8, 3)))["logits"].shape == (2, 3)
    with pytest.raises(ValueError, match="found 9x8 pixels, expected 8x8"):
        model(np.zeros((2, 9, 8, 3)))
    earlier = model._replace(meta={**meta, "mean": [], "std": []})
    with pytest.raises(ValueError, match="found 9x8 pixels, expected 8x8"):
        earlier(np.zeros((2, 9, 8, 3)))
    with pytest.raises(ValueError, match="found no variables, expected a trained"):
        model._replace(variables=None)(np.zeros((2, 8, 8, 3)))


def test_options_that_no_file_can_hold_are_refused_before_training():
    own = "tests.helpers.own_model:make"
    for value in (np.inf, float("nan"), print):
        with pytest.raises(
            ValueError, match=r"options: found \{'clip': .*, expected f"
        ):
            build_untrained(own, {"clip": value}, {"num_classes": 3}, SHAPE)


def test_export_weights_writes_what_it_knows(student, tmp_path):
    target = tmp_path / "torch.safetensors"
    assert export_weights.main([f"--from={tmp_path}", f"--to={target}"]) == 0
    assert read_input(open_weights(target))["std"] == STD


def test_grey_images_without_an_axis_of_channels():
    grey = small((8, 8, 1), mean=[0.5], std=[0.25])
    with pytest.raises(ValueError, match=r"images\[\.\.\., None\] has an axis"):
        grey(np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match=r"images\[None\] is a batch of one"):
        grey(np.zeros((8, 8, 1)))
