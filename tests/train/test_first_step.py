"""What the first step says of a distillation."""

import logging

import pytest

from diffkd_jax import main
from diffkd_jax.train.first_step import look
from tests.train.conftest import tiny_config

USUAL = {
    "loss/task": 2.0,
    "loss/x/distance": 0.5,
    "loss/x/diffusion": 1.0,
    "loss/total": 3.5,
    "rms/x/student": 0.25,
    "rms/x/teacher": 4.0,
    "gamma/x/mean": 0.5,
}


def said(caplog, **changed):
    caplog.clear()
    with caplog.at_level(logging.INFO, "diffkd_jax"):
        look(USUAL | changed, ["x"])
    (record,) = caplog.records
    return record.levelname, record.getMessage()


def test_sizes_of_both_sides_and_their_distance_are_said(caplog):
    level, text = said(caplog)
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
def test_what_is_strange_is_a_warning(changed, message, caplog):
    level, text = said(caplog, **changed)
    assert level == "WARNING"
    assert message in text


def test_a_run_says_it_once(finished, tmp_path, caplog):
    config = tiny_config(method="mse", **{"teacher.init": str(finished / "teacher")})
    with caplog.at_level(logging.INFO, "diffkd_jax"):
        main.run(config, str(tmp_path))
    assert caplog.text.count("tap 'features': first distance") == 1


def test_taps_that_count_for_nothing_are_refused():
    config = tiny_config(method="mse", dry_run=True)
    config.methods.mse.weight = 0.0
    with pytest.raises(ValueError, match=r"found 0 for all of \['features/distance'\]"):
        main.run(config)
