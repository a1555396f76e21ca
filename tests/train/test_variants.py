"""Rows of a comparison that differ from its config in what trains."""

import json

import pytest

from diffkd_jax import main
from diffkd_jax.config.flags import set_options, take_options
from diffkd_jax.config.recorded import read_record
from diffkd_jax.config.resolve import resolve
from diffkd_jax.methods import METHODS
from diffkd_jax.train.commands.compare import compare
from diffkd_jax.train.commands.dry_run import dry_run
from diffkd_jax.train.commands.planned_runs import configs_by_row
from diffkd_jax.train.commands.step_times import StepTime
from tests.helpers.configs import tiny_config

HALF = {
    "method": "diffkd",
    "methods": {"diffkd": {"gamma": 0.5}},
    "optimizer": {"learning_rate": 0.05},
}
SHORT = {"optimizer": {"learning_rate": 0.02}, "train": {"max_steps": 4}}


def with_variants(methods, variants, **fields):
    config = tiny_config(compare=methods, **fields)
    with config.unlocked():
        config.comparison.variants = variants
    return config


def read_rows(workdir):
    lines = (workdir / "comparison.jsonl").read_text().splitlines()
    return {(row["method"], row["budget"]): row for row in map(json.loads, lines)}


def equal_times(run, reference):
    return StepTime(1.0, 1.0)


def test_a_variant_is_a_row_like_a_method(tmp_path, capsys):
    """The reference is a variant; ``kd`` has its own rate and half the length."""
    fields = {"comparison.budget": ("steps", "time")}
    config = with_variants(
        ("half", "none", "kd"), {"half": HALF, "kd": SHORT}, **fields
    )
    compare(config, tmp_path, measure=equal_times)
    rows = read_rows(tmp_path)
    steps = {key: row["steps"] for key, row in rows.items()}
    assert steps == {
        **{("half", "steps"): 8, ("none", "steps"): 8, ("kd", "steps"): 4},
        **{("half", "time"): 8, ("none", "time"): 8, ("kd", "time"): 8},
    }
    assert rows["half", "steps"]["variant"] == HALF
    assert rows["kd", "time"]["variant"] == {"method": "kd", **SHORT}
    assert "variant" not in rows["none", "steps"]
    text = (tmp_path / "comparison.md").read_text()
    assert "minus half" in text
    line = "half: diffkd with methods.diffkd.gamma=0.5, optimizer.learning_rate=0.05."
    assert line in text
    times = json.loads((tmp_path / "step_times.json").read_text())
    assert (times["reference"], list(times["methods"])) == (
        *("half", ["half", "none", "kd"]),
    )
    record = read_record(tmp_path / "half/config.json")
    assert (record.name, record.method) == ("tiny-half", "diffkd")
    assert record.optimizer.learning_rate == 0.05
    assert (tmp_path / "kd-time").is_dir()
    assert "tiny-half (diffkd): top1" in capsys.readouterr().out
    # The teacher's recipe is that of the config, although the first row has another.
    teacher = read_record(tmp_path / "teacher/config.json")
    assert teacher.optimizer.learning_rate == config.optimizer.learning_rate
    compare(config, tmp_path, measure=None)  # all of it is found again
    assert "tiny-half: finished already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_variant_trains_as_the_same_fields_do_alone(tmp_path):
    fields = {"train.max_steps": 2}
    config = with_variants(("none", "half"), {"half": HALF}, **fields)
    compare(config, tmp_path / "rows", measure=equal_times)
    alone = tiny_config(
        **fields,
        **{"optimizer.learning_rate": 0.05, "methods.diffkd.gamma": 0.5},
        **{"teacher.init": str(tmp_path / "rows/teacher")},
    )
    main.run(alone, str(tmp_path / "alone"))
    ours, theirs = (
        (tmp_path / n / "model.safetensors").read_bytes()
        for n in ("rows/half", "alone")
    )
    assert ours == theirs


@pytest.mark.slow
def test_self_is_taught_by_the_row_none_alone(tmp_path):
    """Not by another row of the method ``none``, and not by one with its own length."""
    variants = {
        "brief": {"method": "none", "train": {"max_steps": 1}},
        "none": {"train": {"max_steps": 3}},
        "mine": {"method": "self", "train": {"max_steps": 2}},
    }
    config = with_variants(
        ("kd", "brief", "none", "mine"), variants, **{"comparison.budget": ("time",)}
    )
    compare(config, tmp_path, measure=equal_times)
    teacher = json.loads((tmp_path / "none/summary.json").read_text())
    mine = json.loads((tmp_path / "mine-time/summary.json").read_text())
    assert teacher["steps"] == 3
    assert mine["teacher_top1"] == teacher["final_top1"]
    rows = read_rows(tmp_path)
    # 8 steps of the reference; 3 of them are those of the teacher.
    assert {name: row["steps"] for (name, _), row in rows.items()} == {
        **{"kd": 8, "brief": 8, "none": 8, "mine": 5},
    }
    assert {row["seconds"] for row in rows.values()} == {8.0}


def test_self_as_a_variant_needs_none():
    variants = {"mine": {"method": "self"}, "plain": {"method": "none"}}
    config = with_variants(("plain", "mine"), variants)
    with pytest.raises(ValueError, match=r"compare: .* expected 'none' beside 'self'"):
        resolve(config)


def taught_by_the_student():
    return METHODS["kd"]()._replace(teacher="student")


def test_a_method_that_the_student_teaches_needs_none(tmp_path):
    method = f"{__name__}:taught_by_the_student"
    config = with_variants(("kd", "own"), {"own": {"method": method}})
    with pytest.raises(ValueError, match="compare: found 'own', whose teacher is"):
        compare(config, tmp_path, measure=equal_times)


def test_a_variant_comes_from_flags():
    at = "--config.comparison.variants.half."
    _, options = take_options(
        [
            f"{at}method=diffkd",
            f"{at}methods.diffkd.gamma=0.5",
            f"{at}optimizer.learning_rate=0.05",
            f"{at}optimizer.frozen=head/*",
            f"{at}weights.logits/distance=2",
        ]
    )
    config = tiny_config(compare=("none", "half"))
    set_options(config, options)
    run = resolve(config).for_row("half")
    assert run.methods["diffkd"]["gamma"] == 0.5
    assert run.optimizer.learning_rate == 0.05
    assert run.optimizer.frozen == ("head/*",)
    assert run.weights["logits/distance"] == 2
    assert run.methods["diffkd"]["num_steps"] == 1  # of the config


@pytest.mark.parametrize(("option", "message"), [
    ("diffkd.gamma=x", "gamma: found 'x', expected a number at least 0 and at most 1"),
    ("projection.of=3", r"of: found 3, expected one of \['none', 'kd'"),
])  # fmt: skip
def test_options_of_wrong_types_are_refused_in_our_words(option, message):
    _, options = take_options([f"--config.methods.{option}"])
    method = option.partition(".")[0]
    config = tiny_config(method=method)
    set_options(config, options)
    with pytest.raises(ValueError, match=rf"methods\.{method}\.{message}"):
        dry_run(config)


def test_a_weight_of_a_variant_is_not_left_out():
    variants = {"half": HALF | {"weights": {"logitz": 1.0}}}
    config = with_variants(("none", "half"), variants, weights={"logits": 2.0})
    rows = configs_by_row(resolve(config))
    assert rows["none"].weights == {}
    assert rows["half"].weights == {"logits": 2.0, "logitz": 1.0}
    message = r"comparison\.variants\.half\.weights: found .*logitz"
    with pytest.raises(ValueError, match=message):
        dry_run(config)


@pytest.mark.parametrize("name", ["data", "student", "teacher", "seed", "evaluations",
                                  "name", "compare", "comparison", "eval_every_epochs",
                                  "mode", "mesh", "task"])  # fmt: skip
def test_a_variant_changes_what_trains_only(name):
    value = tiny_config()[name]
    config = with_variants(("none", "half"), {"half": HALF | {name: value}})
    message = rf"variants\.half\.{name}: found .*expected one of method, .*all rows of"
    with pytest.raises(ValueError, match=message):
        resolve(config)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ({"teacher": HALF}, r"found the name 'teacher', expected letters"),
        ({"plots": HALF}, r"found the name 'plots', expected letters"),
        ({"a/b": HALF}, r"found the name 'a/b', expected letters"),
        ({"kd-time": HALF}, r"found the name 'kd-time', expected letters"),
        ({"kd-seed3": HALF}, r"found the name 'kd-seed3', expected letters"),
        ({"half": HALF, "other": HALF}, r"found 'other', which compare does not name"),
        ({"half": {}}, r"variants\.half\.method: found none, expected one of"),
        ({"none": {"method": "kd"}}, r"none\.method: found 'kd', expected 'none'"),
        ({"half": {"method": "diffkdd"}}, r"half\.method: found 'diffkdd', expected"),
        ({"half": HALF | {"methods": {"diffkd": {"gama": 1}}}}, r"diffkd\.gama: found"),
        ({"half": HALF | {"methods": {"kd": {"tau": 2}}}}, r"that 'half' does not use"),
        (
            {"half": HALF | {"optimizer": {"learning_rat": 1}}},
            r"half\.optimizer\.learning_rat: found 1, .* nearest: learning_rate",
        ),
        (
            {"half": HALF | {"optimizer": {"learning_rate": "fast"}}},
            r"half\.optimizer\.learning_rate: found 'fast', expected a number above 0",
        ),
        (
            {"half": HALF | {"schedule": {"name": "cosine", "end": 1.0}}},
            r"half\.schedule\.end: found 1\.0, expected at most 0\.05",
        ),
        ({"half": HALF | {"train": 3}}, r"half\.train: found 3, expected a mapping"),
        ({"half": 3}, r"comparison\.variants\.half: found 3, expected a mapping"),
    ],
)
def test_wrong_variants_are_refused(variants, message):
    rows = ("none", *(name for name in variants if name not in ("none", "other")))
    with pytest.raises(ValueError, match=message):
        resolve(with_variants(rows, variants))


def test_a_value_that_only_the_method_refuses_is_named_with_its_variant():
    variants = {"half": {"method": "diffkd", "methods": {"diffkd": {"gamma": 1.5}}}}
    message = r"comparison\.variants\.half\.methods\.diffkd\.gamma: found 1\.5"
    with pytest.raises(ValueError, match=message):
        configs_by_row(resolve(with_variants(("none", "half"), variants)))
