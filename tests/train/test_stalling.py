"""A training that makes no progress logs a warning, once."""

import logging

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.tasks import TASKS, Evidence
from diffkd_jax.train.stalling import Stalling
from tests.helpers.configs import tiny_config


def of_classes(hits, count=2000, classes=10):
    """Returns evidence of a classifier that predicts the first class, and its top-1."""
    confusion = np.zeros((classes, classes))
    confusion[:, 0] = count / classes
    return Evidence({"count": float(count), "confusion": confusion}), hits / count


def warnings(caplog, scores, most=3, task="classification"):
    """Returns how many warnings a sequence of scores causes."""
    built_task = TASKS[task]({"num_classes": 10})
    watch, history, evidence = Stalling(built_task, most), {}, of_classes(0)[0]
    caplog.clear()
    for step, value in enumerate(scores, 1):
        history[step] = {built_task.headline: value}
        watch.look_at_scores(history, evidence)
    return len(caplog.records)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1075] * 2, 0),
        ([0.1075] * 3, 1),
        ([0.1075] * 8, 1),
        ([0.1, float("nan"), 0.08], 1),
        ([0.1, 0.1, 0.3, 0.1, 0.1], 0),
        ([0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1], 2),
        ([0.2, 0.2, 0.2], 0),
    ],
)
def test_three_evaluations_at_chance_level_log_a_warning(scores, expected, caplog):
    assert warnings(caplog, scores) == expected


def test_the_number_of_evaluations_is_a_field(caplog):
    assert warnings(caplog, [0.1] * 5, most=6) == 0
    assert warnings(caplog, [0.1] * 5, most=0) == 0
    assert warnings(caplog, [0.1] * 5, most=1) == 1


def test_chance_level_is_the_share_of_the_most_frequent_class():
    counts = np.zeros((10, 10))
    counts[0, 0], counts[1, 0] = 900, 100
    task = TASKS["classification"]({"num_classes": 10})
    actual = task.chance(Evidence({"count": 1000.0, "confusion": counts}))
    assert 0.9 < actual < 0.92
    pixels = np.array([[80, 0, 0], [20, 0, 0]])
    task = TASKS["segmentation"]({"num_classes": 2})
    assert task.chance(Evidence({"confusion": pixels})) == pytest.approx(0.4, rel=0.03)
    assert TASKS["detection"]({"num_classes": 2}).chance(None) < 0.01


def rows_of_losses(distance, task=134.0):
    return {
        "loss/task": task,
        "loss/p6/distance": distance,
        "loss/total": task + distance,
    }


def test_a_loss_that_is_most_of_the_total_logs_one_warning(caplog):
    watch = Stalling(TASKS["classification"]({"num_classes": 10}), 3)
    for distance in (373.0, 373.0, 100.0, 373.0, 373.0):
        watch.look_at_losses(rows_of_losses(distance))
    assert not caplog.records
    for _ in range(4):
        watch.look_at_losses(rows_of_losses(373.0))
    (record,) = caplog.records
    assert "loss p6/distance is 373 of 507 in all, 74%" in record.getMessage()


def test_a_loss_counts_by_its_weight(caplog):
    watch = Stalling(TASKS["classification"]({"num_classes": 10}), 3)
    row = rows_of_losses(373.0) | {"weighted/p6/distance": 3.73, "loss/total": 137.73}
    for _ in range(4):
        watch.look_at_losses(row)
        watch.look_at_losses({"loss/task": 5.0, "loss/total": 5.0})
    assert not caplog.records


def test_a_run_at_chance_level_logs_a_warning(tmp_path, caplog):
    """Nothing is learnt at this rate; there is an evaluation every four steps."""
    config = tiny_config(
        method="none",
        **{"optimizer.learning_rate": 1e-9, "train.epochs": 4.0},
        **{"train.chance_evaluations": 2, "train.max_steps": 12},
    )
    caplog.set_level(logging.WARNING)
    main.run(config, str(tmp_path))
    assert caplog.text.count("no better than a guess") == 1
