"""Models whose images are normalised differently than those of the data are refused."""

import logging

import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.train.build import build
from diffkd_jax.train.components import make_model
from diffkd_jax.train.teacher import load_teacher
from diffkd_jax.weights.files import export_model, export_torch, load_model
from diffkd_jax.weights.output_files import MODEL_FILE
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.configs import resnet_config
from tests.helpers.variables import random_variables

OTHER = {"mean": [0.1307], "std": [0.3081]}


@pytest.fixture(scope="module")
def config():
    return resnet_config(method="kd", **{"train.max_steps": 1})


@pytest.fixture(scope="module")
def data(config):
    return open_data(resolve(config).data)


@pytest.fixture
def export(config, data, tmp_path):
    """Writes the export of a teacher whose description has some values changed."""

    def write(name="model", write=export_model, **meta):
        model = make_model("teacher", resolve(config).teacher, data)
        variables = random_variables(model.module, data.eval_shape)
        path = tmp_path / name / MODEL_FILE
        write(path, model._replace(variables=variables, meta={**model.meta, **meta}))
        return path

    return write


def with_teacher(config, path, **fields):
    run_config = config.copy_and_resolve_references()
    run_config.teacher.init = str(path)
    run_config.update_from_flattened_dict(fields)
    return run_config


def test_a_run_exports_its_normalisation(finished):
    meta = load_model(finished, "tests.helpers.own_model:make").meta
    assert (meta["mean"], meta["std"]) == ([0.286], [0.353])
    assert (meta["channel_order"], meta["input_shape"]) == ("L", [28, 28, 1])


def test_a_user_s_model_gets_the_normalisation(config):
    meta = build(config).data.meta
    assert (meta["mean"], meta["std"]) == ([0.286], [0.353])


@pytest.mark.parametrize("write", [export_model, export_torch])
def test_a_teacher_of_another_normalisation_is_refused(config, export, write, tmp_path):
    path = export(write=write, **OTHER)
    message = (
        r"^teacher\.init: .*mean \(0\.1307,\) and std \(0\.3081,\), expected "
        r"\(0\.286,\) and \(0\.353,\).*--config\.data\.mean=\"\(0\.1307,\)\""
    )
    for fields in ({}, {"dry_run": True}):
        with pytest.raises(ValueError, match=message):
            main.run(with_teacher(config, path, **fields), str(tmp_path / "run"))
    assert not (tmp_path / "run/checkpoints").exists()


def test_the_flags_that_the_message_names_make_the_teacher_fit(
    config, export, tmp_path
):
    flags = {"data.mean": (0.1307,), "data.std": (0.3081,)}
    run_config = with_teacher(config, export(**OTHER), dry_run=True, **flags)
    main.run(run_config, str(tmp_path / "run"))


def test_rounded_and_unknown_normalisations_are_accepted(config, data, export):
    expected = make_model("teacher", resolve(config).teacher, data)
    for values in (
        {"mean": [0.28604], "std": [0.3530242445]},
        {"mean": [], "std": [], "channel_order": ""},
    ):
        taken = load_teacher(export(**values), expected)
        assert taken.meta["mean"] == values["mean"]


def test_a_classifier_of_another_size_is_refused(config, data, export, tmp_path):
    path = export(input_shape=[32, 32, 1])
    message = r"found a model for images of 32x32, expected 28x28.*image_size=32"
    with pytest.raises(ValueError, match=rf"^teacher\.init: .*{message}"):
        load_teacher(path, make_model("teacher", resolve(config).teacher, data))
    run_config = config.copy_and_resolve_references()
    run_config.mode = "evaluate"
    run_config.student.model, run_config.student.options = (
        "resnet8",
        config.teacher.options,
    )
    with pytest.raises(ValueError, match=rf"^workdir: .*{message}"):
        main.run(run_config, str(path.parent))


def test_another_image_size_is_accepted_if_the_normalisation_is_unknown(
    config, data, export
):
    """Files of import_weights hold it only if the user states it."""
    expected = make_model("teacher", resolve(config).teacher, data)
    load_teacher(export(input_shape=[224, 224, 1], mean=[], std=[]), expected)


def test_a_network_of_maps_of_another_size_is_a_warning(tmp_path, caplog):
    """Such networks are trained on crops and evaluated on whole images."""
    meta = {"num_classes": 2, "mean": [0.5], "std": [0.25]}
    small, large = (
        build_untrained("deeplabv3_resnet8", {}, meta, (side, side, 3))
        for side in (32, 48)
    )
    variables = random_variables(small.module, (32, 32, 3))
    export_model(tmp_path / MODEL_FILE, small._replace(variables=variables))
    load_teacher(tmp_path, small)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    load_teacher(tmp_path, large)
    assert "a model for images of 32x32, those of the data are 48x48" in caplog.text


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_a_student_of_another_normalisation_is_refused(config, export, mode):
    run_config = config.copy_and_resolve_references()
    run_config.mode = mode
    run_config.student.model, run_config.student.options = (
        "resnet8",
        config.teacher.options,
    )
    path = export(**OTHER)
    with pytest.raises(ValueError, match=r"^workdir: .*mean \(0\.1307,\) and std"):
        main.run(run_config, str(path.parent))
    assert [file.name for file in path.parent.iterdir()] == [MODEL_FILE]


@pytest.mark.parametrize("write", [export_model, export_torch])
def test_a_student_may_start_from_another_normalisation(
    config, export, write, tmp_path, caplog
):
    run_config = config.copy_and_resolve_references()
    run_config.method = "none"
    run_config.student.model, run_config.student.options = (
        "resnet8",
        config.teacher.options,
    )
    for name, values in (("same", {}), ("other", OTHER)):
        caplog.clear()
        run_config.student.init = str(export(name, write, **values))
        main.run(run_config, str(tmp_path / f"run_{name}"))
        said = "student.init: " in caplog.text
        assert said == (name == "other")
    assert "mean (0.1307,) and std (0.3081,), expected (0.286,)" in caplog.text
