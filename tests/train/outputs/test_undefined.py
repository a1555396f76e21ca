"""JSON files are valid JSON, and an undefined number is read back as NaN."""

import functools
import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.config.resolve import resolve
from diffkd_jax.io import valid_json
from diffkd_jax.tasks import TASKS
from diffkd_jax.tasks.detection.plots import write
from diffkd_jax.train.commands import train as commands
from diffkd_jax.train.outputs import report
from diffkd_jax.train.outputs.metrics import Writer, read_rows
from diffkd_jax.train.workdir import checkpoint, directory
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints
from diffkd_jax.train.workdir.claim import claim_workdir
from tests.helpers.configs import tiny_config

NAN, INF = float("nan"), float("inf")


def refuse(word):
    raise AssertionError(f"found {word}, which is not JSON")


def read_strictly(path):
    """Returns the values in a JSON file, or in a file with one JSON value per line."""
    text = path.read_text()
    parts = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [json.loads(part, parse_constant=refuse) for part in parts]


@pytest.mark.parametrize("value", [NAN, INF, -INF, np.float64("nan")])
def test_numbers_that_are_not_finite_are_null(value):
    text = valid_json.dumps({"a": value, "b": [1.5, (value,)], "c": {"d": value}})
    assert json.loads(text) == {"a": None, "b": [1.5, [None]], "c": {"d": None}}


def test_metrics_are_json_and_read_back(tmp_path):
    path, writer = tmp_path / "metrics.jsonl", Writer(tmp_path)
    values = {"eval/ap": NAN, "eval/loss": np.float32(INF), "loss/task": 0.5}
    writer.write(3, values | {"gamma/histogram": np.array([1.0, NAN])})
    writer.close()
    assert read_strictly(path) == [
        {
            **{"step": 3, "eval/ap": None, "eval/loss": None, "loss/task": 0.5},
            "gamma/histogram": [1.0, None],
        }
    ]
    (row,) = read_rows(path)
    assert math.isnan(row["eval/ap"])
    assert math.isnan(row["gamma/histogram"][1])
    assert math.isnan(report.read_evaluations(tmp_path, "ap")[3]["ap"])
    # Rows of earlier versions, which are written again where a run goes on.
    path.write_text('{"step": 1, "eval/ap": NaN, "loss/x": -Infinity}\n')
    Writer(tmp_path, step=1).close()
    assert read_strictly(path) == [{"step": 1, "eval/ap": None, "loss/x": None}]


def test_rows_without_a_step_are_still_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": null, "eval/ap": 1.0}\n{"step": 1, "eval/ap": null}\n')
    assert [row["step"] for row in read_rows(path)] == [1]


@pytest.fixture
def undefined(monkeypatch):
    """Registers a task whose headline is never defined."""
    make = TASKS["classification"]

    @functools.wraps(make)
    def undefined(meta, **options):
        task = make(meta, **options)
        return task._replace(score=lambda seen: task.score(seen) | {"top1": NAN})

    monkeypatch.setitem(TASKS, "classification", undefined)


def test_a_run_whose_scores_are_undefined_is_finished(undefined, tmp_path, capsys):
    config = tiny_config(method="none")
    result = commands.train(config, tmp_path)
    assert math.isnan(result["final_top1"])
    for name in ("metrics.jsonl", "summary.json", "config.json"):
        assert read_strictly(tmp_path / name), name
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.name == "metadata" and file.parent.name in ("meta", "metrics"):
            assert read_strictly(file)
    (summary,) = read_strictly(tmp_path / "summary.json")
    assert summary["final_top1"] is None
    again = commands.train(config, tmp_path)
    assert "finished already" in capsys.readouterr().out
    assert math.isnan(again["final_top1"])
    assert math.isnan(again["best_top1"])
    # What is missing is made again, from the history in the log.
    (tmp_path / "summary.json").unlink()
    assert math.isnan(commands.train(config, tmp_path)["best_top1"])


def test_a_summary_without_its_score_is_still_named(finished, tmp_path):
    for name in ("model.safetensors", "report.html"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    actual = directory.read_json_object(finished / "summary.json")
    del actual["final_top1"]
    directory.write_json(tmp_path / "summary.json", actual)
    with pytest.raises(ValueError, match="found no number final_top1"):
        directory.read_summary(tmp_path, "top1")


def test_a_config_with_an_undefined_number_equals_its_record(tmp_path):
    """NaN differs from NaN; the record of a run must not differ from its config."""
    config = tiny_config(method="none")
    with config.unlocked():
        config.student.options.clip = INF
        config.student.options.fill = NAN
    claim_workdir(resolve(config), tmp_path)
    assert read_strictly(tmp_path / "config.json")
    (tmp_path / "summary.json").write_text("{}")
    claim_workdir(resolve(config), tmp_path)
    with config.unlocked():
        config.student.options.clip = 1.0
    with pytest.raises(
        ValueError, match=r"student\.options\.clip: found None, expected"
    ):
        claim_workdir(resolve(config), tmp_path)


def test_detections_are_json(tmp_path):
    actual = {
        "boxes": np.array([[0.0, 0.0, NAN, 4.0]]),
        "valid": np.array([True]),
        "classes": np.array([0]),
        "scores": np.array([INF]),
    }
    write(tmp_path, [("a", actual, {"target": {}})], {"num_classes": 1})
    (rows,) = read_strictly(tmp_path / "detections.json")
    assert (rows[0]["score"], rows[0]["bbox"][2]) == (None, None)


def test_pending_metrics_of_a_checkpoint_keep_undefined_numbers(tmp_path):
    task = TASKS["classification"]({"num_classes": 2, "class_names": []})
    state = {"w": jnp.ones(2)}
    with open_checkpoints(tmp_path, task) as checkpoints:
        waiting = [(1, {"share": np.float32(NAN), "counts": np.array([1.0, INF])})]
        checkpoint.save_checkpoint(checkpoints, 2, state, {"top1": NAN}, waiting)
        checkpoints.wait_until_finished()
        (file,) = pathlib.Path(tmp_path).rglob("meta/metadata")
        assert read_strictly(file)[0]["scores"]["top1"] is None
        ((at, row),) = checkpoint.read_pending(checkpoints, 2)
    assert at == 1
    assert np.isnan(row["share"])
    assert np.isnan(row["counts"][1])
