"""Each mode that uses a trained student works for each task."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.tasks import Evidence
from diffkd_jax.train.cluster.sharding import make_mesh
from diffkd_jax.train.commands.use_student import use_student
from diffkd_jax.train.evaluate import compile_evidence
from diffkd_jax.weights.files import load_model
from tests.helpers.configs import ROOT, load_config

RECIPES = {
    "classification": "quickstart",
    "segmentation": "segmentation_quickstart",
    "detection": "detection_quickstart",
}
WRITTEN = {
    "classification": "predictions.csv",
    "segmentation": "*.png",
    "detection": "detections.json",
}


def smoke_config(task, own):
    config = load_config(RECIPES[task], "smoke")
    config.method, config.num_devices, config.train.max_steps = "none", 1, 1
    if own:
        options = {**config.student.options, "network": config.student.model}
        config.student.model = "tests.helpers.own_networks:gated"
        with config.unlocked():
            config.student.options = options
    return config


@pytest.mark.parametrize("own", [False, True], ids=["quickstart", "own"])
@pytest.mark.parametrize("task", RECIPES)
def test_a_trained_student_is_evaluated_and_predicts(task, own, tmp_path, capsys):
    config = smoke_config(task, own)
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    config.mode = "evaluate"
    capsys.readouterr()
    main.run(config, str(tmp_path))
    headline = summary["headline"]
    score = summary[f"final_{headline}"]
    assert f"student  {headline} {score:.4f}" in capsys.readouterr().out
    config.mode = "predict"
    main.run(config, str(tmp_path))
    assert list((tmp_path / "predictions").rglob(WRITTEN[task]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains ``quickstart:smoke`` with settings that the recipe does not have."""
    config = smoke_config("classification", own=True)
    config.data.mean, config.data.limit = (0.4,), 48
    config.student.options.channels = (4, 4, 4, 8)
    workdir = tmp_path_factory.mktemp("trained")
    main.run(config, str(workdir))
    return workdir


def evaluated(workdir, **fields):
    """Returns the scores of a run's student, with the import path of its network."""
    config = load_config("quickstart", "smoke")
    config.num_devices, config.mode = 1, "evaluate"
    config.student.model = "tests.helpers.own_networks:gated"
    config.update_from_flattened_dict(fields)
    return use_student(config, workdir, fields_set=set(fields))


def test_the_settings_of_the_run_need_not_be_repeated(trained, caplog):
    caplog.set_level("INFO")
    summary = json.loads((trained / "summary.json").read_text())
    scores = evaluated(trained)
    assert scores["loss"] == pytest.approx(summary["final_loss"], abs=1e-6)
    assert "data.mean: (0.4,) as in the run, not (0.286,)" in caplog.text
    assert "student.options.channels: (4, 4, 4, 8) as in the run" in caplog.text
    assert "num_threads" not in caplog.text


def test_fields_that_the_caller_sets_override_those_of_the_run(trained, caplog):
    scores = evaluated(trained, **{"data.limit": 8, "data.mean": (0.4,)})
    assert (8 * scores["top1"]).is_integer()
    assert "data.limit: the run had 48, this call gives 8" in caplog.text
    assert "data.mean" not in caplog.text


def test_a_student_is_for_images_of_the_size_of_evaluation(tmp_path):
    """Networks are often scored on larger images than those of training."""
    config = smoke_config("classification", own=False)
    config.data.augment = "resized_crop"
    config.data.image_size, config.data.eval_size = 24, 32
    main.run(config, str(tmp_path))
    assert load_model(tmp_path).meta["input_shape"] == [32, 32, 1]
    config.mode = "evaluate"
    assert use_student(config, tmp_path, fields_set=set())["top1"] >= 0
    config.data.eval_size = 0
    with pytest.raises(ValueError, match="images of 32x32, expected 24x24"):
        use_student(config, tmp_path, fields_set={"data.eval_size"})


@pytest.mark.parametrize(
    ("field", "value", "trained_with"),
    [
        ("student.model", "resnet14", "'tests.helpers.own_networks:gated'"),
        ("student.options.channels", (8, 8, 8, 8), (4, 4, 4, 8)),
        ("student.options.deep", 3, "no such option"),
    ],
)
def test_a_student_set_by_hand_must_be_that_of_the_run(
    field, value, trained_with, trained
):
    config = load_config("quickstart", "smoke")
    config.mode, config.student.model = "evaluate", "tests.helpers.own_networks:gated"
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
        config.student.options.deep = 3
    with pytest.raises(ValueError, match=f"^{field}: found .*expected") as error:
        use_student(config, trained, fields_set={field})
    assert f"expected {trained_with}," in str(error.value)


def test_from_python_each_field_that_is_not_at_its_default_counts_as_set(
    trained, caplog
):
    config = load_config("quickstart", "smoke")
    config.num_devices, config.mode = 1, "evaluate"
    config.student.model = "tests.helpers.own_networks:gated"
    config.data.limit, config.data.mean = 0, (0.4,)
    main.run(config, str(trained))
    assert "data.limit: the run had" not in caplog.text  # it is at its default
    config.data.limit = 8
    main.run(config, str(trained))
    assert "data.limit: the run had 48, this call gives 8" in caplog.text


def changed(trained, folder, change):
    """Returns a copy of a run with a changed record."""
    shutil.copy(trained / "model.safetensors", folder)
    record = json.loads((trained / "config.json").read_text())
    change(record)
    (folder / "config.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("name", ["tfds/kubric:movi", "tfds/huggingface:mnist/plain"])
def test_a_community_data_set_of_tfds_counts_as_an_import_path(name, trained, tmp_path):
    """Its code would be downloaded and run."""
    run = changed(trained, tmp_path, lambda r: r["data"].update(name=name))
    with pytest.raises(ValueError, match=f"add --config.data.name={name}"):
        evaluated(run)


def test_a_version_of_a_data_set_does_not_count_as_an_import_path(trained, tmp_path):
    run = changed(
        trained, tmp_path, lambda r: r["data"].update(name="tfds/mnist:3.0.1")
    )
    with pytest.raises(FileNotFoundError, match=r"data\.path"):
        evaluated(run, **{"data.path": str(tmp_path / "nothing")})


@pytest.mark.parametrize("field", ["data.name", "task.name", "student.model"])
def test_an_import_path_that_only_the_record_names_is_not_imported(
    field, trained, tmp_path, payload
):
    name, proof = payload
    section, key = field.split(".")
    run = changed(trained, tmp_path, lambda r: r[section].update({key: name}))
    with pytest.raises(ValueError, match=f"add --config.{field}={name}"):
        evaluated(run)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(data=5), "found data 5, expected an object"),
        (lambda r: r["data"].update(options=[1]), r"found data.options \[1\]"),
        (lambda r: r["data"].update(batch_size="x"), "data.batch_size: found 'x'"),
        (lambda r: r["data"].update(limit=-3), "data.limit: found -3"),
        (
            lambda r: r["data"].update(name=None),
            "data.name: found null, expected a text",
        ),
        (lambda r: r["data"].update(mean=None), "data.mean: found null, expected nu"),
        (lambda r: r["train"].update(epochs=None), "train.epochs: found null"),
        (lambda r: r["data"].update(sise=3), "found the field data.sise"),
        (lambda r: r["student"].update(model=["a"]), r"student.model: found \['a'\]"),
    ],
)
def test_a_record_with_wrong_values_is_refused(change, message, trained, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluated(changed(trained, tmp_path, change))


def test_options_of_the_run_s_data_set_are_not_given_to_another_one(trained, tmp_path):
    """Those of its data set are not given to another one."""
    run = changed(trained, tmp_path, lambda r: r["data"].update(options={"deep": 3}))
    with pytest.raises(ValueError, match=r"data.options: found \['deep'\]"):
        evaluated(run)
    with pytest.raises(ValueError, match=r"data\.num_classes: found 10"):
        evaluated(run, **{"data.name": "tests.helpers.own_code:load"})


def test_an_output_that_the_task_needs_and_the_model_lacks_is_named():
    evidence = lambda outputs, batch: Evidence({"sum": outputs["depth"].sum()})
    apply = lambda variables, batch: {"logits": batch["image"]}
    mesh = make_mesh(1)
    forward = compile_evidence(evidence, apply, lambda batch: batch, mesh)
    with pytest.raises(ValueError, match=r"outputs \['logits'\], expected 'depth'"):
        forward({}, {"image": np.zeros((1, 2)), "mask": np.ones(1)})


def test_a_record_as_config_uses_the_student_beside_it(trained, tmp_path):
    """Without ``--workdir``: ``runs/<name>`` may be another run of the same recipe."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "diffkd_jax.main"),
            *(f"--config={trained}/config.json", "--config.mode=evaluate"),
            "--config.student.model=tests.helpers.own_networks:gated",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = json.loads((trained / "summary.json").read_text())
    assert f"top1 {summary['final_top1']:.4f}" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())
