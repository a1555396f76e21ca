"""Runs whose parts do not fit each other are refused by ``check.py``."""

import jax
import jax.numpy as jnp
import pytest

from diffkd_jax.tasks import Evidence
from diffkd_jax.train.build import build
from diffkd_jax.train.check import check, check_student
from tests.helpers.configs import tiny_config

FIELDS = {
    "a target of another kind": (
        {"task.name": "segmentation", "mix.mixup": 0.0},
        r"^data\.name: found '\w+', whose targets are label of 0 axes; expected",
    ),
    "evaluations of two models without a teacher": (
        {"method": "none", "evaluations": {"agreement": {}}},
        r"^evaluations\.agreement: found a method without a teacher, expected one with",
    ),
    "evaluations of a split that is not there": (
        {"method": "kd", "evaluations": {"agreement": {"split": "val"}}},
        r"^evaluations\.agreement\.split: found 'val', expected one of \['train'",
    ),
    "taps that count for nothing": (
        {"method": "kd", "weights": {"logits": 0.0}},
        r"^weights: found 0 for all of \['logits/distance'\], expected one above 0",
    ),
    "a weight without a loss": (
        {"method": "kd", "weights": {"logitz": 2.0}},
        r"found .*'logitz'.*expected",
    ),
    "teachers of other classes whose logits are compared with labels": (
        {"method": "dkd", "teacher.num_classes": 7},
        r"^taps\.logits\.distance: found one that reads labels for a teacher of 7",
    ),
    "a pattern of frozen parts that names nothing": (
        {"optimizer.frozen": ("cnv/*",), "method": "none"},
        r"^optimizer\.frozen: found 'cnv/\*', expected paths of the student such as",
    ),
    "nothing left to train": (
        {"optimizer.frozen": ("*",), "method": "none"},
        r"^optimizer\.frozen: found \('\*',\), which leaves nothing of the student",
    ),
    "inheriting without a teacher": (
        {"student.inherit": ("head/*",), "method": "none"},
        r"^student\.inherit: found \('head/\*',\) without a teacher, expected",
    ),
    "inheriting what no model has": (
        {"student.inherit": ("neck/*",), "method": "kd"},
        r"^student\.inherit: found 'neck/\*', expected paths of",
    ),
    "inheriting arrays of another shape": (
        {"student.inherit": ("conv/*",), "method": "kd"},
        r"found params/conv/bias \[6\] of the teacher, expected .*\[4\]",
    ),
}


@pytest.mark.parametrize(("fields", "message"), FIELDS.values(), ids=FIELDS)
def test_parts_that_do_not_fit_are_refused(fields, message):
    config = tiny_config()
    with config.unlocked():
        for name in ("weights", "evaluations"):
            config[name] = dict(fields).get(name, {})
        plain = {k: v for k, v in fields.items() if k not in ("weights", "evaluations")}
        config.update_from_flattened_dict(plain)
    with pytest.raises(ValueError, match=message):
        build(config)


def test_frozen_parts_at_random_values_are_named(caplog):
    build(tiny_config(method="none", **{"optimizer.frozen": ("conv/*",)}))
    assert "what is frozen stays at its random values" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": lambda outputs, batch: {"task": outputs["depth"].sum()}}, "'depth'"),
        ({"evidence": lambda outputs, batch: 3.0}, "task.name: found evidence of Shap"),
        ({"evidence": lambda outputs, batch: Evidence(3.0)}, "found evidence of Evide"),
        ({"loss": lambda outputs, batch: jnp.zeros(3)}, "student.model: "),
    ],
)
def test_outputs_that_a_task_cannot_use_are_refused(change, message):
    run = build(tiny_config(method="none"))
    shapes = (run.shapes.student, run.shapes.batch)
    losses = check_student(run.task, run.student, *shapes)
    assert jax.tree.map(jnp.shape, losses) == {"task": ()}
    with pytest.raises(ValueError, match=message):
        check_student(run.task._replace(**change), run.student, *shapes)


def test_a_run_can_be_checked_again_after_a_change():
    run = build(tiny_config(method="kd"))
    check(run)
    weights = {**run.method.weights, "logits/distance": 0.0}
    with pytest.raises(ValueError, match="found 0 for all of"):
        check(run._replace(method=run.method._replace(weights=weights)))
