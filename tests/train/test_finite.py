"""A run stops at numbers that are not finite, and logs what the first step shows."""

import json
import logging

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands import train as runs
from diffkd_jax.train.finite import log_first_step, require_finite
from diffkd_jax.train.outputs.metrics import read_rows
from diffkd_jax.train.workdir.directory import read_json_object
from diffkd_jax.train.workdir.identity import record_divergence
from diffkd_jax.weights.files import load_model
from diffkd_jax.weights.output_files import MODEL_FILE
from tests.helpers.configs import tiny_config

GOOD = {"loss/total": 1.0, "norm/params": 2.0, "gamma/loss/histogram": np.ones(20)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["loss/task", "norm/gradient", "norm/params", "norm/state"]
)
def test_the_first_step_that_is_not_finite_is_named_with_its_metric(
    tmp_path, name, value
):
    rows = {4: GOOD, 5: {**GOOD, name: value}, 6: {**GOOD, "loss/total": np.nan}}
    with pytest.raises(ValueError, match=f"^step 5: found {name} = {value}.*step 3 "):
        require_finite(rows, [1, 3], tmp_path)


def test_a_step_skipped_for_the_state_of_its_optimizer_counts_too(tmp_path):
    """No metric shows that state."""
    rows = {4: {**GOOD, "skipped": 1.0}, 5: {**GOOD, "skipped": 0.0}}
    actual = require_finite(rows, [], tmp_path, skipped=2, max_skipped=3)
    assert actual == {4: "a state of the optimizer"}
    with pytest.raises(
        ValueError, match=r"step 4: found a state .* after 3 skipped steps"
    ):
        require_finite(rows, [], tmp_path, skipped=3, max_skipped=3)


def test_finite_steps_pass_and_other_metrics_are_not_checked(tmp_path):
    broken = {"gamma/loss/histogram": np.full(20, np.nan), "loss/task": 0.0}
    require_finite({4: GOOD, 5: broken}, [], tmp_path)


def test_a_checkpoint_with_broken_metrics_is_not_called_good(tmp_path):
    """A version that checked only losses may have saved it."""
    rows = [{"step": 4, **GOOD}, {"step": 8, "loss/total": 1.0, "norm/params": np.nan}]
    rows[0].pop("gamma/loss/histogram")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    more = '{"step": 9, "eval/loss": NaN}\n'
    (tmp_path / "metrics.jsonl").write_text(text + more)
    broken = {10: {"loss/total": np.nan}}
    for saved, good in (([4, 8, 9], "step 4 "), ([8], "none ")):
        with pytest.raises(ValueError, match=f"last good checkpoint: {good}"):
            require_finite(broken, saved, tmp_path)


def test_weights_that_are_not_finite_after_the_last_step_are_not_written(tmp_path):
    """The loss of the only step is finite: it is that of the weights before it."""
    config = tiny_config(
        **{
            "method": "none",
            "optimizer.name": "tests.helpers.own_code:exploding",
            "schedule.name": "constant",
            "train.max_steps": 1,
        }
    )
    with config.unlocked():
        config.student.model = "tests.helpers.own_model:make"
        config.student.options = {"width": 4}
    with pytest.raises(
        ValueError, match=r"step 1: found norm/params = inf.*point: none"
    ):
        main.run(config, str(tmp_path))
    assert not (tmp_path / MODEL_FILE).exists()
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))


BAD = {"method": "tests.helpers.own_code:one_bad_step", "log_every_steps": 1}


def test_a_run_that_diverged_resumes_in_its_workdir_with_skipped_steps(
    tmp_path, caplog
):
    message = (
        r"step 5: found loss/total = nan.*train\.max_skipped=10.*checkpoint: step 4"
    )
    with pytest.raises(ValueError, match=message):
        main.run(tiny_config(**BAD), str(tmp_path))
    assert read_json_object(tmp_path / "diverged.json")["step"] == 5
    main.run(tiny_config(**BAD, **{"train.max_skipped": 1}), str(tmp_path))
    assert "step 5: found loss/total = nan, its update is skipped" in caplog.text
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if "skipped" in row]
    assert [row["skipped"] for row in rows] == [1, 1, 1, 1]  # from step 5 on
    assert "loss/task" not in rows[0]
    assert np.isfinite([row["loss/task"] for row in rows[1:]]).all()
    assert load_model(tmp_path, "tests.helpers.own_model:make").variables


def test_more_skipped_steps_than_allowed_stop_the_run(tmp_path):
    """They count over a resume, and over steps that are logged together."""
    fields = {"method": "none", "train.max_skipped": 5, "log_every_steps": 3}
    config = tiny_config(
        **fields, **{"optimizer.name": "tests.helpers.own_code:exploding"}
    )
    for _ in range(2):
        with pytest.raises(ValueError, match=r"step 6: .* after 5 skipped steps"):
            main.run(config, str(tmp_path))
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4"]


def test_a_run_that_diverged_resumes_with_another_learning_rate(tmp_path):
    """Its teacher, which was trained at the first rate, stays."""
    should_stop = lambda: len(read_rows(tmp_path / "metrics.jsonl")) > 2
    fields = {"method": "kd", "log_every_steps": 1}
    with pytest.raises(Stopped):
        runs.train(tiny_config(**fields), tmp_path, should_stop)
    changed = {"optimizer.learning_rate": 1e-3, "weights": {"task": 0.5}}
    lower = tiny_config(**fields, **changed)
    with pytest.raises(ValueError, match=r"learning_rate: found 0\.1, expected 0\.001"):
        main.run(lower, str(tmp_path))
    record_divergence(tmp_path, 3, "found loss/total = nan")
    other = tiny_config(**fields, **changed, **{"optimizer.momentum": 0.5})
    with pytest.raises(ValueError, match=r"momentum: found 0\.9, expected 0\.5"):
        main.run(other, str(tmp_path))
    main.run(lower, str(tmp_path))
    rates = [row.get("learning_rate") for row in read_rows(tmp_path / "metrics.jsonl")]
    assert rates[2] > rates[3] > 0
    record = read_json_object(tmp_path / "config.json")
    assert record["changed"] == [
        {"optimizer.learning_rate": [0.1, 1e-3], "weights.task": ["nothing", 0.5]}
    ]
    assert not (tmp_path / "diverged.json").exists()
    main.run(lower, str(tmp_path))  # which says that it has finished
    with pytest.raises(ValueError, match=r"learning_rate: found 0\.001, expected 0\.1"):
        main.run(tiny_config(**fields), str(tmp_path))


def test_a_run_that_diverged_before_a_checkpoint_may_change_its_whole_config(tmp_path):
    fields = {**BAD, "method_options": {"at": 2}}
    with pytest.raises(ValueError, match=r"step 2: .* checkpoint: none"):
        main.run(tiny_config(**fields), str(tmp_path))
    main.run(tiny_config(**fields | {"method_options": {"at": 9}}), str(tmp_path))
    record = read_json_object(tmp_path / "config.json")
    assert (record["method_options"], "changed" in record) == ({"at": 9}, False)


USUAL = {
    "loss/task": 2.0,
    "loss/x/distance": 0.5,
    "loss/x/diffusion": 1.0,
    "loss/total": 3.5,
    "rms/x/student": 0.25,
    "rms/x/teacher": 4.0,
    "gamma/x/mean": 0.5,
}


def first_step_log(caplog, **changed):
    caplog.clear()
    with caplog.at_level(logging.INFO, "diffkd_jax"):
        log_first_step(USUAL | changed, ["x"])
    (record,) = caplog.records
    return record.levelname, record.getMessage()


def test_the_first_step_logs_both_sizes_and_their_distance(caplog):
    level, text = first_step_log(caplog)
    assert level == "INFO"
    assert "tap 'x': first distance 0.5 between a student of 0.25 and a teacher" in text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss/x/distance": 0.0}, "both sides are the same, or nothing is compared"),
        ({"weighted/x/distance": 2001.0}, "of 2001 is over 1000 times the task's, 2"),
        ({"loss/x/distance": float("nan")}, "losses of nan beside the task's 2"),
        ({"loss/task": float("inf")}, "losses of 0.5 beside the task's inf"),
        ({"loss/task": 4e-4}, "of 0.5 is over 1000 times the task's, 0.0004"),
    ],
)
def test_unusual_numbers_of_the_first_step_are_warnings(changed, message, caplog):
    level, text = first_step_log(caplog, **changed)
    assert level == "WARNING"
    assert message in text


def test_a_run_logs_its_first_step_once(finished, tmp_path, caplog):
    config = tiny_config(method="mse", **{"teacher.init": str(finished / "teacher")})
    with caplog.at_level(logging.INFO, "diffkd_jax"):
        main.run(config, str(tmp_path))
    assert caplog.text.count("tap 'features': first distance") == 1


def test_taps_whose_weights_are_all_0_are_refused():
    config = tiny_config(method="mse", dry_run=True)
    config.methods.mse.weight = 0.0
    with pytest.raises(ValueError, match=r"found 0 for all of \['features/distance'\]"):
        main.run(config)
