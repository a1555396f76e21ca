"""A comparison pairs runs by seed, scales lengths by time, and can be resumed."""

import functools
import json
import math

import jax
import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.config.sections import Config
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands import compare as command
from diffkd_jax.train.commands import step_times
from diffkd_jax.train.commands.compare import compare
from diffkd_jax.train.commands.planned_runs import (
    configs_by_row,
    length_factors,
    plan_runs,
    scale_length,
)
from diffkd_jax.train.commands.step_times import StepTime
from diffkd_jax.train.outputs.comparison import TeacherFacts, explain, tabulate
from diffkd_jax.train.outputs.comparison_rows import ComparedRun, summarise_runs
from diffkd_jax.train.outputs.paired_statistics import pair_by_seed
from tests.helpers.configs import tiny_config

METHODS = ("none", "kd", "projection")
COSTS = {"none": 1.0, "kd": 2.0, "projection": 4.0, "self": 2.0, "diffkd": 4.0}


def injected(run, reference):
    """Step times in place of measured ones."""
    return StepTime(COSTS[run.config.method], COSTS[reference.config.method])


def comparison(methods=METHODS, seeds=(0, 1), budget=("steps", "time"), **fields):
    fields |= {"comparison.seeds": seeds, "comparison.budget": budget}
    return tiny_config(compare=methods, **fields)


def by_hand(differences):
    reference = dict.fromkeys(range(len(differences)), 0.0)
    return pair_by_seed(dict(enumerate(map(float, differences))), reference)


def test_statistics_are_those_computed_by_hand():
    result = by_hand([1, 2, 3, 4, 5])
    assert result.mean == 3
    assert result.standard_error == pytest.approx(math.sqrt(2.5 / 5))
    assert result.p_sign_flip == pytest.approx(2 / 32)  # all signs equal, either way
    assert result.p_t == pytest.approx(
        0.013236, rel=1e-4
    )  # t = 3 / sqrt(0.5), 4 d.o.f.
    # Three of 16 assignments have sums of 5 or more (7, 5, 5), and three the negatives.
    assert by_hand([1, 2, 3, -1]).p_sign_flip == pytest.approx(6 / 16)
    assert by_hand([0, 0, 0]).p_sign_flip == 1


def test_statistics_that_do_not_exist_are_undefined():
    alone = by_hand([0.5])
    assert alone.mean == 0.5
    assert np.isnan([alone.standard_error, alone.p_sign_flip, alone.p_t]).all()
    equal = by_hand([0.25, 0.25, 0.25])
    assert (equal.standard_error, equal.p_sign_flip) == (0.0, 0.25)
    assert np.isnan(equal.p_t)
    assert np.isnan(by_hand([0.1, math.nan]).mean)
    many = by_hand(range(14))
    assert np.isnan(many.p_sign_flip)
    assert many.p_value == many.p_t
    with pytest.raises(ValueError, match=r"seeds: found \[0\] and \[1\], expected the"):
        pair_by_seed({0: 1.0}, {1: 1.0})


def test_runs_of_one_seed_share_student_batches_and_teacher():
    config = resolve(comparison())
    runs = plan_runs(
        config, configs_by_row(config), "steps", dict.fromkeys(METHODS, 1.0)
    )
    assert [run.folder for run in runs] == [
        *METHODS,
        *(f"{method}-seed1" for method in METHODS),
    ]
    students, firsts = {}, {}
    for run in runs:
        built = build(run.config)
        students.setdefault(run.seed, []).append(built.init().params["student"])
        firsts.setdefault(run.seed, []).append(list(training_batches(built)))
    for made in (students, firsts):
        for seed in (0, 1):
            first, *others = made[seed]
            for other in others:
                jax.tree.map(np.testing.assert_array_equal, first, other)
    kernels = [students[seed][0]["head"]["kernel"] for seed in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    assert (firsts[0][0][0]["index"] != firsts[1][0][0]["index"]).any()


def test_lengths_follow_the_times_of_a_step():
    times = {name: StepTime(COSTS[name], 4.0) for name in ("diffkd", "none", "self")}
    assert length_factors(times, ["self"]) == {"diffkd": 1.0, "none": 4.0, "self": 1.5}
    near = {"none": StepTime(1.0, 1.0), "kd": StepTime(1.015, 1.0)}
    assert length_factors(near, []) == {"none": 1.0, "kd": 1.0}


def test_self_has_no_time_left_beside_none(caplog):
    times = {"none": StepTime(1.0, 1.0), "self": StepTime(2.0, 1.0)}
    assert length_factors(times, ["self"]) == {"none": 1.0}
    assert "self: not trained for equal time" in caplog.text


def test_schedules_scale_with_the_length():
    config = tiny_config(evaluations={"agreement": {"every_epochs": 0.5}})
    config.train.max_steps, config.train.epochs = 5, 4.0
    config.schedule.boundaries, config.schedule.warmup_epochs = (1.0, 3.0), 0.5
    config.train.distill_warmup_epochs = 0.25
    scaled = scale_length(resolve(config), 2.0)
    assert (scaled.train.epochs, scaled.train.max_steps) == (8.0, 10)
    assert scaled.schedule.boundaries == (2.0, 6.0)
    assert scaled.schedule.warmup_epochs == 1.0
    assert scaled.train.distill_warmup_epochs == 0.5
    assert scaled.eval_every_epochs == 2.0
    assert scaled.evaluations["agreement"].every_epochs == 1.0
    assert scale_length(resolve(config), 0.01).train.max_steps == 1


def snapshot(workdir):
    return {f: f.stat().st_mtime_ns for f in workdir.glob("*/summary.json")}


def test_a_stopped_comparison_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    """Stopped within a run, and started again with measurement forbidden."""
    config = comparison()
    whole = compare(config, tmp_path / "whole", measure=injected)
    calls = iter(range(10**6))
    stop = lambda: 15 if next(calls) > 60 else 0
    with pytest.raises(Stopped):
        compare(config, tmp_path / "parts", stop, measure=injected)
    before = snapshot(tmp_path / "parts")
    assert 2 < len(before) < 10

    def measured_again(run, reference):
        raise AssertionError

    resumed = compare(config, tmp_path / "parts", measure=measured_again)
    after = snapshot(tmp_path / "parts")
    assert {file: after[file] for file in before} == before
    timeless = lambda rows: [{k: v for k, v in row.items() if k != "images_per_second"}
                             for row in rows]  # fmt: skip
    assert timeless(resumed) == timeless(whole)
    texts = [
        (tmp_path / n / "comparison.jsonl").read_text() for n in ("whole", "parts")
    ]
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_the_report_has_columns_for_both_budgets(tmp_path, capsys):
    compare(comparison(), tmp_path, measure=injected)
    out = capsys.readouterr().out
    assert out.count("tiny-teacher (none): top1") == 1  # one teacher for all seeds
    assert "equal steps: top1" in out
    assert "equal time: top1" in out
    lines = (tmp_path / "comparison.jsonl").read_text().splitlines()
    rows = {(r["budget"], r["method"]): r for r in map(json.loads, lines)}
    steps = {key: row["steps"] for key, row in rows.items()}
    assert steps == {
        **{("steps", method): 8 for method in METHODS},
        **{("time", "none"): 8, ("time", "kd"): 4, ("time", "projection"): 2},
    }
    assert {row["seconds"] for key, row in rows.items() if key[0] == "time"} == {8.0}
    assert set(rows["steps", "kd"]["scores"]) == {"0", "1"}
    assert rows["steps", "kd"]["difference"]["p_sign_flip"] >= 0.5
    text = (tmp_path / "comparison.md").read_text()
    assert text.count("\n| ") == 6  # a header, a rule, three methods and the teacher
    assert (tmp_path / "plots/comparison.png").exists()
    folders = {file.parent.name for file in tmp_path.glob("*/summary.json")}
    assert folders == {
        *(f"{m}{s}" for m in METHODS for s in ("", "-seed1")),
        *(f"{m}{s}-time" for m in METHODS[1:] for s in ("", "-seed1")),
        "teacher",
    }


@pytest.mark.slow
def test_self_counts_the_training_of_its_teacher(tmp_path):
    """The run of its teacher is made but not shown if there is one budget."""
    methods = ("diffkd", "none", "self")
    compare(comparison(methods, (0,), ("time",)), tmp_path, measure=injected)
    lines = (tmp_path / "comparison.jsonl").read_text().splitlines()
    rows = {row["method"]: row for row in map(json.loads, lines)}
    assert {name: row["steps"] for name, row in rows.items()} == {
        **{"diffkd": 8, "none": 32, "self": 12},
    }
    # 8 steps of 4 s; 32 of 1 s; 12 of 2 s and 8 of the teacher's of 1 s
    assert {row["seconds"] for row in rows.values()} == {32.0}
    teacher = json.loads((tmp_path / "self-time/summary.json").read_text())
    student = json.loads((tmp_path / "none/summary.json").read_text())
    assert teacher["teacher_top1"] == student["final_top1"]


def compared(method, seed, score, budget="steps"):
    result = {"headline": "top1", "final_top1": score, "steps": 10}
    return ComparedRun(method, seed, budget, method, 3.0, result)


def test_the_table_holds_the_statistics():
    scores = {"none": [0.5, 0.6, 0.7], "kd": [0.6, 0.8, 0.8]}
    runs = [compared(m, k, x) for m, row in scores.items() for k, x in enumerate(row)]
    rows = summarise_runs(runs, {"none": 1.0, "kd": 1.5})
    facts = TeacherFacts(0.9, 12.0)
    header, none, kd, teacher = tabulate(rows, "top1", facts)
    assert header == (
        *("method", "n", "top1", "std", "minus none", "p", "steps", "cost of a step"),
    )
    assert none == ("none", "3", "0.6000", "0.1000", "", "", "10", "1.00")
    assert kd[:6] == ("kd", "3", "0.7333", "0.1155", "+0.1333 +- 0.0333", "0.25")
    assert teacher == ("teacher", "", "0.9000", "", "", "", "", "")
    text = "\n".join(explain(rows, facts))
    assert "with 3 seeds it is at least 0.25" in text
    assert "Seeds: 3. Repeat with at least 5" in text
    assert "not counted: 12 s" in text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"comparison.seeds": (0, 0)}, r"comparison\.seeds: found .* each seed once"),
        ({"comparison.seeds": (-1,)}, r"comparison\.seeds: found .* integers at least"),
        (
            {"comparison.seeds": (0.5,)},
            r"comparison\.seeds: found .* integers at least",
        ),
        (
            {"comparison.budget": ()},
            r"comparison\.budget: found \(\), expected 'steps'",
        ),
        (
            {"comparison.budget": ("hours",)},
            r"comparison\.budget: found .* 'steps', 't",
        ),
        (
            {"compare": (), "comparison.seeds": (0, 1)},
            "comparison: found .* without compare",
        ),
        (
            {"compare": ("kd", "self")},
            "compare: found .* expected 'none' beside 'self'",
        ),
    ],
)
def test_wrong_comparisons_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        main.run(tiny_config(**{"compare": ("none", "kd")} | fields))


def test_another_reference_is_refused(tmp_path):
    fields = {"seeds": (0,), "budget": ("steps",), "train.max_steps": 1}
    compare(comparison(("none", "kd"), **fields), tmp_path, measure=injected)
    with pytest.raises(ValueError, match="reference 'kd', expected 'none', to which"):
        compare(comparison(("kd", "none"), **fields), tmp_path, measure=injected)


@pytest.mark.parametrize("pair", [[1.0], [1, "a"], {"seconds": 1.0}])
def test_a_damaged_file_of_times_is_refused(tmp_path, pair):
    content = {"reference": "none", "methods": {"none": pair}}
    (tmp_path / step_times.FILE).write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=r"found .* expected two times in seconds; restore"
    ):
        compare(comparison(("none",), (0,)), tmp_path, measure=injected)


def test_both_kinds_of_steps_are_measured(monkeypatch):
    """A run that distils every fourth step; how long it takes is not looked at."""
    monkeypatch.setattr(step_times, "ROUNDS", 1)
    monkeypatch.setattr(step_times, "TURN_SECONDS", 0.0)
    fields = {"train.distill_every": 4}
    none, kd = (build(tiny_config(method=m, **fields)) for m in ("none", "kd"))
    kinds = []

    def counted(run):
        def step(state, teacher, batch, distill):
            kinds.append((run.config.method, distill))
            return run.step(state, teacher, batch, distill)

        return run._replace(step=step)

    pair = step_times.measure_step(counted(kd), counted(none))
    assert min(pair) > 0
    assert {*kinds} == {("none", True), ("kd", True), ("kd", False)}
    alone = counted(none)
    same = step_times.measure_step(alone, alone)
    assert same.cost == 1.0


@pytest.mark.parametrize("calls_before", range(10))
def test_a_measurement_can_be_stopped_between_turns(
    tmp_path, monkeypatch, calls_before
):
    """Whenever the stop is asked for, no further turn is taken, nothing written."""
    monkeypatch.setattr(step_times, "TURN_SECONDS", 0.0)
    steps, calls = [], iter(range(10**6))

    def should_stop():
        number = 15 if next(calls) >= calls_before else 0
        if number:
            steps.append("stop")
        return number

    def step(state, teacher, batch, distill):
        steps.append("step")
        return state, {}

    run = build(tiny_config(method="none"))._replace(step=step)
    measure = functools.partial(step_times.measure_step, should_stop=should_stop)
    with pytest.raises(Stopped):
        step_times.read_or_measure({"none": run}, tmp_path, should_stop, measure)
    assert steps[-1] == "stop"
    assert steps.count("stop") == 1
    assert steps.count("step") <= calls_before
    assert list(tmp_path.iterdir()) == []


def test_two_commands_do_not_share_a_comparison(tmp_path):
    """The second one is refused as a second run is, and the first one goes on."""
    config = comparison(("none",), (0,), ("steps",), **{"train.max_steps": 1})

    def second_command(run, reference):
        with pytest.raises(OSError, match="is in use by another run, expected one at"):
            compare(config, tmp_path, measure=injected)
        return StepTime(1.0, 1.0)

    (result,) = compare(config, tmp_path, measure=second_command)
    assert result["steps"] == 1


def test_finished_runs_that_a_call_does_not_name_are_named_as_left_out(tmp_path):
    fields = {"train.max_steps": 1}
    compare(comparison(("none", "kd"), (0, 1), ("steps",), **fields), tmp_path,
            measure=injected)  # fmt: skip
    text = (tmp_path / "comparison.md").read_text()
    assert "Left out" not in text
    compare(comparison(("none",), (1,), ("steps",), **fields), tmp_path,
            measure=injected)  # fmt: skip
    fewer = (tmp_path / "comparison.md").read_text()
    assert "Left out: kd, kd-seed1, none. The last command did not name" in fewer
    assert "Left out: kd, kd-seed1, none." in (tmp_path / "report.html").read_text()
    compare(comparison(("none", "kd"), (0, 1), ("steps",), **fields), tmp_path)
    assert (tmp_path / "comparison.md").read_text() == text


def test_a_comparison_measures_unless_told_otherwise(tmp_path, monkeypatch):
    measured = []

    def measure(run, reference, should_stop):
        measured.append(run.config.method)
        return StepTime(1.0, 1.0)

    monkeypatch.setattr(command, "measure_step", measure)
    config = comparison(("none", "kd"), (0,), ("steps",), **{"train.max_steps": 1})
    main.run(config, str(tmp_path))
    assert measured == ["none", "kd"]


def test_the_seed_of_the_config_is_the_default():
    config = Config(compare=("none",), seed=7)
    (run,) = plan_runs(config, configs_by_row(config), "steps", {"none": 1.0})
    assert (run.seed, run.folder) == (7, "none")
