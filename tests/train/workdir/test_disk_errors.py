"""Another teacher, odd records and a disk that fails are reported in one line."""

import errno
import json
import logging as python_logging
import os
import sys

import pytest
from absl import logging

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.train.components import make_model
from diffkd_jax.train.outputs import metrics
from diffkd_jax.train.teacher import load_teacher
from diffkd_jax.train.workdir import checkpoint, directory, disk_errors, lock
from diffkd_jax.train.workdir.claim import claim_workdir
from diffkd_jax.train.workdir.identity import record_teacher
from diffkd_jax.weights.files import export_model
from diffkd_jax.weights.output_files import EMA_FILE, MODEL_FILE
from tests.helpers.configs import tiny_config
from tests.helpers.variables import random_variables


def claimed(path, **fields):
    path.mkdir(exist_ok=True)
    claim_workdir(resolve(tiny_config(**fields)), path, {"classes": ["a", "b"]})
    return path


def test_a_teacher_may_move_but_not_change(tmp_path):
    run = claimed(tmp_path / "run", **{"teacher.init": "/here"})
    record_teacher(run, 7)
    (run / "checkpoints/4").mkdir(parents=True)
    claimed(run, **{"teacher.init": "/there"})
    record_teacher(run, 7)
    with pytest.raises(ValueError, match=r"teacher\.init: .*checksum 8, expected 7"):
        record_teacher(run, 8)
    record = directory.read_json_object(run / "config.json")
    del record["teacher_checksum"]  # as of an older version
    directory.write_json(run / "config.json", record)
    record_teacher(run, 8)
    with pytest.raises(ValueError, match="checksum 7, expected 8"):
        record_teacher(run, 7)


def test_a_new_run_in_an_unused_workdir_takes_its_own_teacher(tmp_path):
    run = claimed(tmp_path / "run")
    record_teacher(run, 7)
    record_teacher(claimed(run), 8)


def test_the_checksum_of_a_teacher_is_that_of_its_numbers(tmp_path):
    config = tiny_config(method="kd")
    data = open_data(resolve(config).data)
    model = make_model("teacher", resolve(config).teacher, data)
    variables = random_variables(model.module, data.eval_shape)
    actual = []
    for name, added in (("a", 0), ("b", 0), ("c", 1)):
        variables["params"]["head"]["bias"] += added
        file = tmp_path / f"{name}.safetensors"
        export_model(file, model._replace(variables=variables))
        actual.append(load_teacher(file, model).meta["checksum"])
    assert actual[0] == actual[1] != actual[2] == checkpoint.compute_checksum(variables)


def test_the_record_of_a_run_holds_its_teacher(finished):
    record = directory.read_json_object(finished / "config.json")
    config = tiny_config()
    data = open_data(resolve(config).data)
    teacher = load_teacher(
        finished / "teacher", make_model("teacher", resolve(config).teacher, data)
    )
    assert record["teacher_checksum"] == teacher.meta["checksum"]
    assert "teacher_checksum" not in directory.read_json_object(
        finished / "teacher/config.json"
    )


def test_classes_of_a_record_that_are_not_a_list_are_named(tmp_path):
    run = claimed(tmp_path / "run")
    (run / "checkpoints/4").mkdir(parents=True)
    record = directory.read_json_object(run / "config.json")
    directory.write_json(run / "config.json", record | {"classes": 5})
    with pytest.raises(ValueError, match=r"config\.json: found classes of int"):
        claimed(run)


@pytest.fixture
def done(tmp_path):
    """Writes the summary of a finished run, and the files that it needs."""
    config = tiny_config()
    model = make_model(
        "student", resolve(config).student, open_data(resolve(config).data)
    )
    variables = random_variables(model.module, (28, 28, 1))
    export_model(tmp_path / MODEL_FILE, model._replace(variables=variables))
    (tmp_path / "report.html").write_text("<p>")
    summary = {"final_top1": 0.5, "best_top1": 1.0, "images_per_second": 3.0}
    directory.write_json(tmp_path / "summary.json", summary)
    (tmp_path / "checkpoints/4").mkdir(parents=True)  # to make the rest from
    assert directory.read_summary(tmp_path, "top1") == summary
    return tmp_path


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (MODEL_FILE, cut),
        ("report.html", lambda file: file.write_text("")),
        ("summary.json", lambda file: file.write_text('{"final_top1": "high"}')),
        ("summary.json", lambda file: file.write_text('{"final_top1": 0.5}')),
    ],
)
def test_damaged_files_of_a_finished_run_are_made_again(done, caplog, name, damage):
    damage(done / name)
    assert directory.read_summary(done, "top1") is None
    assert name in caplog.text


def test_the_average_belongs_to_a_finished_run_that_has_one(done, caplog):
    summary = directory.read_json_object(done / "summary.json")
    directory.write_json(done / "summary.json", summary | {"final_ema_top1": 0.5})
    assert directory.read_summary(done, "top1") is None
    assert EMA_FILE in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 1e999}',
        '{"step": 2.5}',
        '{"step": "2"}',
        '{"step": true}',
        '{"step": null, "loss/total": 1.0}',
        '{"step": 2, "loss/total": "low"}',
        '{"step": 2, "eval/top1": [1]}',
        '{"step": 2, "gamma/t/histogram": 1}',
        '{"step": 2, "gamma/t/histogram": [[1]]}',
    ],
)
def test_a_line_that_a_writer_would_not_write_is_not_a_row(tmp_path, caplog, line):
    file = tmp_path / "metrics.jsonl"
    good = {"step": 1, "loss/total": float("inf"), "gamma/t/histogram": [1, 2.0]}
    file.write_text(f"{line}\n{json.dumps(good)}\n")
    assert metrics.read_rows(file) == [good]
    assert "left out 1 lines" in caplog.text


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_is_named_once_and_by_its_own_run(tmp_path, code):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    message = rf"workdir: found {os.strerror(code)} at {inner} \(.* free.*expected"
    with (
        pytest.raises(OSError, match=message),
        disk_errors.report_disk_faults(outer),
        disk_errors.report_disk_faults(inner),
    ):
        raise OSError(code, os.strerror(code), "a file")


def test_a_workdir_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "run").write_text("mine")
    message = r"workdir: .*run: found .*File exists.*expected a directory"
    with pytest.raises(OSError, match=message), lock.lock_workdir(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_errors_that_orbax_raises_are_not_logged_by_it_too(monkeypatch):
    logger = logging.get_absl_logger()
    before = list(logger.filters)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    try:
        main._silence_orbax()
        record = lambda path: python_logging.LogRecord(
            "absl", 40, path, 1, "x", (), None
        )
        assert not logger.filter(record("/site-packages/orbax/checkpoint/future.py"))
        assert logger.filter(record("/somewhere/else.py"))
    finally:
        logger.filters[:] = before
