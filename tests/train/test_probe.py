"""A probe trains short runs on held-out images and says what to try first."""

import json

import pytest

from diffkd_jax import main
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands import probe as command
from diffkd_jax.train.commands.probe import probe
from diffkd_jax.train.commands.step_times import StepTime
from diffkd_jax.train.outputs.advice import (
    Agreement,
    ProbedMethod,
    ProbeFacts,
    advise,
)
from tests.helpers.configs import tiny_config

COSTS = {"none": 1.0, "kd": 2.0, "diffkd": 4.0}


def injected(run, reference):
    return StepTime(COSTS[run.config.method], COSTS[reference.config.method])


def probed(workdir, should_stop=lambda: 0, **fields):
    fields = {
        "compare": ("kd", "diffkd"),
        "probe.seconds": 30.0,
        "mode": "probe",
    } | fields
    return probe(tiny_config(**fields), workdir, should_stop, measure=injected)


@pytest.mark.slow
def test_a_probe_resumes_and_writes_what_it_measured(tmp_path):
    calls = iter([0] * 30 + [15] * 99)
    with pytest.raises(Stopped):
        probed(tmp_path, lambda: next(calls))
    facts = probed(tmp_path)
    runs = tmp_path / "comparison"
    config = json.loads((runs / "none/config.json").read_text())
    assert (config["data"]["eval_split"], config["data"]["holdout"]) == ("holdout", 32)
    assert (facts.images, facts.steps, facts.planned_steps) == (32, 8, 8)
    costs = {name: method.cost for name, method in facts.methods.items()}
    assert costs == COSTS
    assert facts.methods["none"].steps_in_time == 32
    assert facts.methods["diffkd"].steps_in_time == 8
    summary = json.loads((runs / "kd/summary.json").read_text())
    assert facts.methods["kd"].score == summary["final_top1"]
    assert facts.teacher == summary["teacher_top1"]
    assert facts.methods["kd"].gradients["logits/distance"].ratio > 0
    assert not facts.methods["none"].gradients
    written = json.loads((tmp_path / "probe.json").read_text())
    assert written["advice"] == advise(facts)
    text = (tmp_path / "probe.md").read_text()
    assert "32 held-out training images, which the probe chose" in text
    assert all(line in text for line in written["advice"])
    assert (tmp_path / "report.html").stat().st_size > 0
    assert probed(tmp_path) == facts  # all runs are finished


def test_a_workdir_of_something_else_is_refused(finished):
    with pytest.raises(ValueError, match="workdir: found another run or comparison"):
        probed(finished)


def test_a_variant_is_probed_at_the_length_of_the_probe(tmp_path):
    variants = {"kd": {"optimizer": {"learning_rate": 0.02}}}
    fields = {"compare": ("kd",), "comparison.variants": variants}
    facts = probed(tmp_path, **fields)
    record = json.loads((tmp_path / "comparison/kd/config.json").read_text())
    assert record["optimizer"]["learning_rate"] == 0.02
    summary = json.loads((tmp_path / "comparison/kd/summary.json").read_text())
    assert summary["steps"] == facts.steps
    variants["kd"]["train"] = {"max_steps": 3}
    with pytest.raises(ValueError, match=r"variants.kd.train.max_steps: found 3"):
        probed(tmp_path / "other", **fields)


def test_a_probe_needs_a_method_beside_none(tmp_path):
    with pytest.raises(ValueError, match=r"compare: found \('none',\), expected a"):
        probed(tmp_path, compare=("none",))


def test_methods_that_the_task_lacks_are_left_out():
    built, left_out = command.build_methods(command.resolve(tiny_config()))
    assert list(built) == ["none", "kd", "dist", "diffkd"]
    assert left_out == ["mse_fpn", "diffkd_fpn"]


def test_the_budget_is_shared_by_the_times_of_a_step():
    config = command.resolve(tiny_config(**{"probe.seconds": 300.0}))
    run = command.build_methods(config)[0]["none"]
    run = run._replace(plan=run.plan._replace(total_steps=1000))
    length = command.share_budget(config, run, 0.1, COSTS)
    assert length.steps == 300 / (0.1 * (7 + 2 * 4))
    assert command.share_budget(config, run, 1e-9, COSTS).steps == 1000
    assert command.share_budget(config, run, 1e9, COSTS).steps == 8


def test_a_given_holdout_is_kept():
    config = command.resolve(tiny_config(**{"data.holdout": 10}))
    held_out, notes = command.hold_out_images(config, None)
    assert (held_out.data.holdout, held_out.data.eval_split) == (10, "holdout")
    assert "10 held-out training images, as data.holdout says" in notes[0]


def facts(none=(0.6, 0.6), kd=(0.6, 0.6), teacher=0.9, gradients=None, **fields):
    methods = {
        "none": ProbedMethod(1.0, *none, 400),
        "kd": ProbedMethod(2.0, *kd, 200, gradients or {}),
    }
    values = {"headline": "top1", "higher_is_better": True, "images": 10_000}
    values |= {"steps": 200, "planned_steps": 400, "teacher": teacher}
    values |= {"is_given": False, "seeds": 5, "methods": methods}
    return ProbeFacts(**values | fields)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({"teacher": 0.605}, "not ahead of the student without distillation (0.6000)"),
        ({"teacher": 0.7}, "ahead of the student without distillation (0.6000) by 0.1"),
        (
            {"none": (0.6, 0.7)},
            "add 0.1000. Longer training (train.epochs) helps by itself",
        ),
        ({"none": (0.6, 0.7), "planned_steps": 4000}, "may vanish at full length"),
        ({"none": (0.6, 0.605)}, "the student is near its plateau"),
        ({"kd": (0.65, 0.7)}, "Try kd first: in equal time it is 0.1000 better"),
        ({"kd": (0.7, 0.6)}, "kd is 0.1000 better in equal steps, but only +0.0000"),
        ({}, "This probe does not show that distillation pays"),
        (
            {"gradients": {"logits/distance": Agreement(30.0, 0.4, 3.0)}},
            "Lower its weight from 3 to about 0.1 (weights, logits/distance)",
        ),
        ({"gradients": {"distillation": Agreement(0.01, 0.5)}}, "hardly acts"),
        ({"gradients": {"distillation": Agreement(1.0, -0.2)}}, "points against that"),
        ({"steps": 50}, "50 steps are too few"),
        ({"is_given": True}, "If it was trained on the held-out images"),
        ({"seeds": 1}, "There is one seed"),
    ],
)
def test_each_rule_has_its_case(case, expected):
    assert expected in "\n".join(advise(facts(**case)))
    other = facts(teacher=0.65, steps=99)  # too few to judge methods and lengths
    assert expected not in "\n".join(advise(other))


def test_lower_scores_can_be_better():
    better = facts(kd=(0.3, 0.3), teacher=0.1, higher_is_better=False)
    assert "Try kd first" in "\n".join(advise(better))


def test_the_command_line_has_the_mode(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(command, "probe", lambda *arguments: called.append(arguments))
    main.run(tiny_config(mode="probe"), str(tmp_path))
    assert called[0][1] == tmp_path
