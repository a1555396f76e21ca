"""Teachers and students are loaded from files that fit, and refused otherwise."""

import logging
import pathlib

import chex
import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.train.commands import train as commands
from diffkd_jax.train.components import make_model
from diffkd_jax.train.teacher import load_teacher
from diffkd_jax.weights.files import export_model, export_torch, load_model
from diffkd_jax.weights.output_files import EMA_FILE, MODEL_FILE
from tests.helpers.configs import resnet_config
from tests.helpers.variables import random_variables


@pytest.fixture(scope="module")
def config():
    return resnet_config(method="kd")


@pytest.fixture(scope="module")
def data(config):
    return open_data(resolve(config).data)


def trained(config, data, seed=0):
    """Returns a teacher with random variables, described like that of a run."""
    model = make_model("teacher", resolve(config).teacher, data)
    variables = random_variables(model.module, data.eval_shape)
    variables["params"]["head"]["bias"] += seed
    return model._replace(variables=variables)


def load(config, data, path):
    """Loads the teacher of a config from a file, for some data."""
    expected = make_model("teacher", resolve(config).teacher, data)
    return load_teacher(path, expected, config.teacher.weights)


def bias(model):
    return model.variables["params"]["head"]["bias"]


def test_teacher_weights_chooses_the_moving_average_of_a_workdir(
    config, data, tmp_path
):
    raw, average = trained(config, data), trained(config, data, seed=1)
    export_model(tmp_path / MODEL_FILE, raw)
    export_model(tmp_path / EMA_FILE, average)
    actual = load(config, data, tmp_path)
    np.testing.assert_array_equal(bias(actual), bias(raw))
    run_config = config.copy_and_resolve_references()
    run_config.teacher.weights = "ema"
    actual = load(run_config, data, tmp_path)
    np.testing.assert_array_equal(bias(actual), bias(average))
    with pytest.raises(ValueError, match=r"teacher.weights: found 'ema' for .*_ema"):
        load(run_config, data, tmp_path / MODEL_FILE)
    export_torch(tmp_path / "torch.safetensors", raw)
    with pytest.raises(ValueError, match="weights: found 'ema' for a file without"):
        load(run_config, data, tmp_path / "torch.safetensors")


def test_teacher_weights_that_do_not_exist_are_refused(config, data, tmp_path):
    run_config = config.copy_and_resolve_references()
    run_config.teacher.weights = "ema"
    with pytest.raises(ValueError, match=r"teacher.weights: .*train.ema_decay above 0"):
        commands.get_teacher(
            resolve(run_config),
            make_model("teacher", resolve(run_config).teacher, data),
            tmp_path,
        )
    run_config.teacher.weights = "best"
    with pytest.raises(
        ValueError, match=r"teacher.weights: found 'best', expected one"
    ):
        commands.get_teacher(
            resolve(run_config),
            make_model("teacher", resolve(run_config).teacher, data),
            tmp_path,
        )
    run_config.teacher.weights, run_config.train.distill_every = "ema", 5
    run_config.train.distill_warmup_epochs = 1.0
    alone = commands.teacher_config(resolve(run_config))
    assert (alone.teacher.weights, alone.train.distill_every) == ("", 1)
    assert alone.train.distill_warmup_epochs == 0.0


def test_a_teacher_keeps_the_names_of_its_own_classes(config, data, tmp_path):
    model = trained(config, data)
    assert model.meta["class_names"] == data.meta["class_names"]
    export_model(tmp_path / MODEL_FILE, model)
    assert load_model(tmp_path).meta["class_names"] == data.meta["class_names"]
    renamed = model.meta | {"class_names": data.meta["class_names"][::-1]}
    export_model(tmp_path / MODEL_FILE, model._replace(meta=renamed))
    actual = load(config, data, tmp_path)
    assert actual.meta["class_names"] == data.meta["class_names"][::-1]
    with pytest.raises(ValueError, match=r"teacher.init: .*in another order"):
        main.run(with_teacher(config, tmp_path), str(tmp_path / "run"))
    run_config = config.copy_and_resolve_references()
    run_config.mode = "evaluate"
    with pytest.raises(ValueError, match=r"workdir: .*in another order"):
        main.run(run_config, str(tmp_path))
    export_torch(tmp_path / "torch.safetensors", model)
    actual = load(config, data, tmp_path / "torch.safetensors")
    assert actual.meta["class_names"] == []


def with_teacher(config, path):
    run_config = config.copy_and_resolve_references()
    run_config.teacher.init = str(path)
    return run_config


def test_classes_in_another_order_are_refused_before_anything_trains(
    config, data, tmp_path
):
    """The method ``mse`` could use such a teacher, ``kd`` after it could not."""
    model = trained(config, data)
    renamed = model.meta | {"class_names": data.meta["class_names"][::-1]}
    export_model(tmp_path / MODEL_FILE, model._replace(meta=renamed))
    for fields in ({"compare": ("mse", "kd")}, {"dry_run": True}):
        run_config = with_teacher(config, tmp_path)
        run_config.train.max_steps = 1
        run_config.update(fields)
        with pytest.raises(ValueError, match=r"teacher.init: .*in another order"):
            main.run(run_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_of_nan_are_refused(config, data, tmp_path):
    model = trained(config, data)
    bias(model)[2] = np.nan
    export_model(tmp_path / MODEL_FILE, model)
    export_torch(tmp_path / "torch.safetensors", model)
    for path in (tmp_path, tmp_path / "torch.safetensors"):
        with pytest.raises(
            ValueError, match=r"teacher.init: .* of params/head/bias not"
        ):
            load(config, data, path)
    run_config = config.copy_and_resolve_references()
    run_config.mode = "evaluate"
    with pytest.raises(ValueError, match=r"workdir: .*found 1 of 10 numbers"):
        main.run(run_config, str(tmp_path))


def test_no_way_to_load_weights_imports_what_a_file_names(
    config, data, tmp_path, payload
):
    name, proof = payload
    model = trained(config, data)
    meta = model.meta | {"model": name}
    export_model(tmp_path / MODEL_FILE, model._replace(meta=meta))
    with pytest.raises(ValueError, match=rf"holds model {name}, expected resnet8"):
        load(config, data, tmp_path)
    run_config = config.copy_and_resolve_references()
    run_config.mode = "evaluate"
    with pytest.raises(ValueError, match=rf"found the model '{name}', which is not"):
        main.run(run_config, str(tmp_path))
    assert not proof.exists()


def test_a_tilde_is_the_home_directory_everywhere(config, data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run_config = config.copy_and_resolve_references()
    run_config.mode = "evaluate"
    for path in (tmp_path / "student", tmp_path / "teacher"):
        export_model(path / MODEL_FILE, trained(run_config, data))
    with pytest.raises(FileNotFoundError) as actual:
        main.run(run_config, "~/nothing")
    assert str(tmp_path / "nothing") in str(actual.value)
    workdirs = []
    note = lambda config, workdir, should_stop: workdirs.append(workdir)
    monkeypatch.setattr(commands, "train", note)
    run_config.teacher.workdir = "~/teacher"
    model = commands.get_teacher(
        resolve(run_config),
        make_model("teacher", resolve(run_config).teacher, data),
        pathlib.Path("anything"),
    )
    assert workdirs == [tmp_path / "teacher"]
    chex.assert_trees_all_equal(bias(model), bias(trained(run_config, data)))
    assert not (tmp_path / "~").exists()


def test_the_log_names_the_entry_that_was_loaded(config, data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    export_model(tmp_path / MODEL_FILE, trained(config, data))
    load(config, data, tmp_path)
    assert f"teacher: {tmp_path / MODEL_FILE}" in caplog.text


def test_a_damaged_teacher_is_refused(config, data, tmp_path):
    export_model(tmp_path / MODEL_FILE, trained(config, data))
    file = tmp_path / "teacher.safetensors"
    file.write_bytes((tmp_path / MODEL_FILE).read_bytes()[:900])
    with pytest.raises(ValueError, match=r"teacher.safetensors: .*expected weights in"):
        load(config, data, file)


def test_a_teacher_of_another_number_of_classes(config, data, tmp_path):
    three = {"num_classes": 3, "class_names": data.meta["class_names"][:3]}
    fewer = data._replace(meta=data.meta | three)
    export_model(tmp_path / MODEL_FILE, trained(config, data))
    with pytest.raises(ValueError, match="holds num_classes 10, expected 3"):
        load(config, fewer, tmp_path)
    run_config = config.copy_and_resolve_references()
    run_config.teacher.num_classes = 10
    assert load(run_config, fewer, tmp_path).meta["num_classes"] == 10
