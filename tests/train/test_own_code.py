"""A user's own data sets, methods, tasks and models go through the whole trainer."""

import functools
import itertools
import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffkd_jax import main
from diffkd_jax.models import from_nnx
from diffkd_jax.models.model import by_path, from_linen
from diffkd_jax.tasks.classification import task as classification
from diffkd_jax.train import fit
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.commands import train as commands
from diffkd_jax.train.outputs import metrics
from diffkd_jax.weights.files import load_model
from tests.helpers.configs import tiny_config

OWN = "tests.helpers.own_code"
LIBRARIES = {
    "linen": "tests.helpers.own_model:make",
    "nnx": f"{OWN}:in_nnx",
    "equinox": "tests.helpers.own_equinox:in_equinox",
    "plain": f"{OWN}:plain",
}


def config(student="linen", teacher="linen", **fields):
    """Six steps of attention transfer on generated images."""
    defaults = {
        "name": "own",
        "data.name": f"{OWN}:load",
        "data.num_classes": 3,
        "data.limit": 0,
        "data.batch_size": 16,
        "data.eval_batch_size": 10,
        "data.mean": (0.5,),
        "data.std": (0.3,),
        "method": f"{OWN}:attention",
        "student.model": LIBRARIES[student],
        "teacher.model": LIBRARIES[teacher],
        "student.options": {},
        "teacher.options": {},
        "teacher.epochs": 1.0,
        "optimizer.learning_rate": 0.05,
    }
    run_config = tiny_config()
    with run_config.unlocked():
        run_config.student.options, run_config.teacher.options = {}, {}
        run_config.update_from_flattened_dict(defaults | fields)
    return run_config


def losses(workdir):
    rows = metrics.read_rows(workdir / "metrics.jsonl")
    return [r["loss/total"] for r in rows if "loss/total" in r]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("nnx", "equinox"),
        ("equinox", "plain"),
        ("plain", "nnx"),
    ],
)
def test_models_of_any_library_train_resume_and_load(
    student, teacher, tmp_path, monkeypatch, capsys
):
    """They train, evaluate, resume, export and load again, also on eight devices."""
    run_config = config(student, teacher)
    main.run(run_config, str(tmp_path / "whole"))
    summary = json.loads((tmp_path / "whole/summary.json").read_text())
    assert summary["steps"] == 6
    assert np.isfinite(summary["final_loss"])

    def interrupt(event, step):
        if (event, step) == ("log", 5):
            raise KeyboardInterrupt

    parts = config(
        student, teacher, **{"teacher.init": str(tmp_path / "whole/teacher")}
    )
    monkeypatch.setattr(commands, "fit", functools.partial(fit.fit, events=interrupt))
    with pytest.raises(KeyboardInterrupt):
        main.run(parts, str(tmp_path / "parts"))
    monkeypatch.setattr(commands, "fit", fit.fit)
    main.run(parts, str(tmp_path / "parts"))
    assert "own: resuming at step 3" in capsys.readouterr().out
    whole, resumed = (
        load_model(tmp_path / name, LIBRARIES[student]) for name in ("whole", "parts")
    )
    assert by_path(whole.variables).keys() == by_path(resumed.variables).keys()
    jax.tree.map(np.testing.assert_array_equal, whole.variables, resumed.variables)
    evaluated = config(student, teacher, mode="evaluate")
    main.run(evaluated, str(tmp_path / "whole"))
    assert f"top1 {summary['final_top1']:.4f}" in capsys.readouterr().out
    eight = config(
        student, teacher, num_devices=8, **{"teacher.init": parts.teacher.init}
    )
    main.run(eight, str(tmp_path / "eight"))
    actual = losses(tmp_path / "eight")
    # Dropout of eight devices draws what one does.
    np.testing.assert_allclose(actual, losses(tmp_path / "whole"), rtol=2e-4)


def test_an_own_task_chooses_the_best_by_its_headline(tmp_path):
    """It is a regression whose headline is better if it is smaller."""
    fields = {"task.name": f"{OWN}:depth", "train.epochs": 4.0}
    main.run(config("plain", "nnx", **fields), str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["headline"] == "rmse"
    rows = metrics.read_rows(tmp_path / "metrics.jsonl")
    values = [r["eval/rmse"] for r in rows if "eval/rmse" in r]
    assert len(values) == 4
    assert summary["best_rmse"] == min(values)
    assert summary["final_rmse"] == values[-1] < values[0]
    assert "rmse" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "plots/score.png").exists()


def test_min_score_counts_in_the_direction_of_the_headline(tmp_path):
    fields = {"task.name": f"{OWN}:depth", "teacher.min_score": 1e-6}
    with pytest.raises(ValueError, match=r"teacher.min_score: found a teacher of 0"):
        main.run(config("plain", "nnx", **fields), str(tmp_path))


def test_options_are_the_arguments_of_the_functions(tmp_path, capsys):
    run_config = config("nnx", "plain", dry_run=True)
    with run_config.unlocked():
        run_config.method_options = {"beta": 3.0}
        run_config.student.options, run_config.data.options = {"width": 5}, {"size": 96}
    main.run(run_config)
    out = capsys.readouterr().out
    assert "distance x 3" in out
    assert "features 4x4x5" in out
    assert "96 to train, 48 to evaluate" in out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student.model": f"{OWN}:nothing"}, "found Nothing, expected a Flax Linen"),
        ({"task.name": f"{OWN}:nothing"}, "task.name: .* gives Nothing, expected a"),
        ({"method": f"{OWN}:lion"}, "method_options: found no 'schedule', expect"),
        ({"method": f"{OWN}:plain"}, "found no 'meta'"),
        ({"data.name": f"{OWN}:lion"}, "data.name: .* gives Gradient.*, expected a"),
        ({"task.name": f"{OWN}:none"}, "task.name: .* gives AttributeError"),
        ({"task.name": "no_such:thing"}, "task.name: .* gives ModuleNotFoundError"),
        ({"task.name": "depth"}, r"task.name: found 'depth', expected one of \['class"),
        (
            {"task.options": {"cap": 1.0}},
            r"task.options: found \['cap'\], expected any",
        ),
        (
            {"student.options": {"widht": 1}},
            r"options: found \['widht'\], expected any",
        ),
        (
            {"data.options": {"sides": 1}},
            r"data.options: found \['sides'\], expected a",
        ),
    ],
)
def test_parts_of_own_code_that_do_not_fit_are_named(fields, message, tmp_path):
    run_config = config("nnx")
    with run_config.unlocked():
        run_config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=message):
        main.run(run_config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{}, {"weights": {"features/distance": 2.0}}])
def test_an_own_method_with_options_trains_its_teacher(change, tmp_path):
    run_config = config("plain", "plain", **{"train.max_steps": 1})
    with run_config.unlocked():
        run_config.method_options = {"beta": 3.0}
        run_config.update_from_flattened_dict(change)
    main.run(run_config, str(tmp_path))
    run_config.mode = "evaluate"
    main.run(run_config, str(tmp_path))


def test_named_streams_of_nnx_differ_from_step_to_step():
    class Named(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(3, 4, rngs=rngs)

        def __call__(self, image):
            return {"logits": self.head(self.dropout(image).mean((1, 2)))}

    model = from_nnx(lambda rngs: Named(nnx.Rngs(params=rngs(), dropout=rngs())))
    params, state = model.init(jax.random.key(0), {})
    batch = {"image": np.ones((4, 8, 8, 3), np.float32)}
    outputs = [
        model.apply(params, state, batch, train=True, key=jax.random.key(k))[0]
        for k in (1, 1, 2)
    ]
    first, again, other = (np.asarray(out["logits"]) for out in outputs)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


class WrongHead(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, image):
        return {"features": image, "logits": self.head(image.mean((1, 2)))}


def wrong_head(meta):
    return from_nnx(WrongHead)


def wrong_scores(meta):
    task = classification.classification(meta)
    return task._replace(score=lambda seen: {"error": 0.5})


def vector_loss(meta):
    task = classification.classification(meta)
    return task._replace(loss=lambda out, batch: {"task": out["logits"].mean(-1)})


HERE = "tests.train.test_own_code"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"student.model": f"{HERE}:wrong_head"}, r"found logits of shape .*\[b, 3\]"),
        ({"task.name": f"{HERE}:vector_loss"}, "found 'task' of shape .*a scalar"),
        ({"weights": {"features/distanse": 1.0}}, "weights: found .*distanse"),
        ({"task.name": "math:sqrt"}, "task.name|task.options"),
        ({"optimizer.name": "math:sqrt"}, "optimizer.name"),
        ({"evaluations": {"agreement": {"evry": 1}}}, "evaluations.agreement.evry"),
        (
            {"evaluations": {"agreement": {"every_epochs": -5.0}}},
            "evaluations.agreement.every_epochs: found -5.0",
        ),
        ({"task.options": {"mixup": -1.0}}, "task.options.mixup: found -1.0"),
        ({"methods": {"kd": {"tauu": 3.0}}}, "methods.kd.tauu: found 3.0"),
        ({"student.init_into": "x"}, "student.init_into: found 'x' without"),
    ],
)
def test_runs_that_cannot_work_are_refused_before_a_teacher_is_trained(
    fields, message, tmp_path
):
    run_config = config("nnx", "plain")
    with run_config.unlocked():
        run_config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=message):
        main.run(run_config, str(tmp_path / "run"))
    assert not (tmp_path / "run/teacher").exists()


def test_scores_without_the_headline_are_refused(tmp_path):
    run_config = config("plain", method="none", **{"task.name": f"{HERE}:wrong_scores"})
    with pytest.raises(ValueError, match=r"task.name: found scores .*'top1' among"):
        main.run(run_config, str(tmp_path))


def test_an_own_optimizer_trains(tmp_path):
    fields = {"optimizer.name": f"{OWN}:lion", "method": "none"}
    main.run(config("plain", **fields), str(tmp_path))
    assert len(losses(tmp_path)) == 6


def test_a_network_may_require_the_argument_train():
    """``docs/extend.md`` has ``__call__(x, *, train)``, without a default."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.BatchNorm(not train)(x.mean((1, 2)))
            return {"logits": nn.Dense(3)(x)}

    model, batch = from_linen(Net()), {"image": jnp.ones((2, 4, 4, 3))}
    params, state = model.init(jax.random.key(0), batch)
    outputs, _ = model.apply(params, state, batch, train=True)
    assert outputs["logits"].shape == (2, 3)


def test_batches_may_come_from_an_iterator_of_ones_own(tmp_path):
    """The batches have no entry ``skipped``, the iterator no method ``close``."""
    run = build(tiny_config(method="none"))
    batches = [dict(batch) for batch in itertools.islice(training_batches(run), 8)]
    for batch in batches:
        batch.pop("skipped")
    expected = fit.fit(run, tmp_path / "expected")
    fitted = fit.fit(
        run,
        tmp_path / "own",
        batches=lambda run, first_step, should_stop: iter(batches[first_step:]),
    )
    chex.assert_trees_all_equal(fitted.state, expected.state)
    with pytest.raises(ValueError, match="found the end after step 3, expected batche"):
        fit.fit(run, tmp_path / "short", batches=lambda *given: iter(batches[:3]))


def test_a_teacher_of_other_classes_cannot_be_trained_here(tmp_path):
    """It is refused before the first method of a comparison trains."""
    fields = {"compare": ("none", "mse"), "teacher.num_classes": 7}
    message = (
        r"teacher\.num_classes: found 7 for a teacher that is trained on data of 10"
    )
    with pytest.raises(ValueError, match=message):
        main.run(tiny_config(**fields), str(tmp_path))
    assert not list(tmp_path.iterdir())
