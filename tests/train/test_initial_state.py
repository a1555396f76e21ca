"""A student starts from weights, and parts of it stay frozen; recipes of teachers."""

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.models.model import by_path
from diffkd_jax.train import fit
from diffkd_jax.train.build import build
from diffkd_jax.train.commands import train as commands
from diffkd_jax.train.initial_state import with_initial_weights
from diffkd_jax.train.outputs import metrics
from diffkd_jax.train.run import ema_variables, student_variables
from diffkd_jax.weights.files import export_model, export_torch, load_model
from diffkd_jax.weights.output_files import MODEL_FILE
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.configs import tiny_config
from tests.helpers.variables import random_variables

OWN = tiny_config().student.model
SHAPE = (28, 28, 1)


def config(**fields):
    defaults = {"method": "none", "train.max_steps": 2, "train.epochs": 1.0}
    return tiny_config(**defaults | fields)


def first_state(made, monkeypatch, workdir):
    """Returns the student's variables before the first step."""
    states = []

    def stop(ready, workdir, initialise, should_stop):
        states.append(by_path(student_variables(initialise(ready.init()))))
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        main.run(made, str(workdir))
    monkeypatch.setattr(commands, "fit", fit.fit)
    return states[0]


def test_a_run_starts_from_an_export(tmp_path, monkeypatch):
    main.run(config(), str(tmp_path / "first"))
    exported = by_path(load_model(tmp_path / "first", OWN).variables)
    again = config(**{"student.init": str(tmp_path / "first"), "seed": 5})
    actual = first_state(again, monkeypatch, tmp_path / "second")
    assert actual.keys() == exported.keys()
    for path, array in exported.items():
        np.testing.assert_array_equal(actual[path], array)
    main.run(again, str(tmp_path / "second"))


def test_a_head_can_be_left_out(tmp_path, monkeypatch):
    """A head of other classes would not fit."""
    model = build_untrained(
        "resnet8", {"channels": [2, 2, 2, 4]}, {"num_classes": 7}, SHAPE
    )
    variables = random_variables(model.module, SHAPE)
    trained = model._replace(variables=variables)
    export_model(tmp_path / MODEL_FILE, trained)
    export_torch(tmp_path / "torch.safetensors", trained)
    for init in (tmp_path, tmp_path / "torch.safetensors"):
        fields = {"student.init": str(init), "student.model": "resnet8"}
        run_config = config(**fields)
        with run_config.unlocked():
            run_config.student.options = {"channels": (2, 2, 2, 4)}
        with pytest.raises(ValueError, match=r"student.init: .*params/head/bias \[7\]"):
            main.run(run_config, str(tmp_path / "run"))
        run_config.student.init_leave_out = ("head/*",)
        actual = first_state(run_config, monkeypatch, tmp_path / "run")
        exported = by_path(variables)
        for path in actual:
            same = np.array_equal(actual[path], exported[path])
            assert same == ("head" not in path), path


def test_weights_go_into_a_subtree_strictly():
    from diffkd_jax.weights.initial import start_from

    fresh = {"params": {"backbone": {"w": np.zeros(2)}, "neck": {"w": np.zeros(2)}}}
    out = start_from(fresh, {"params": {"w": np.ones(2)}}, source="f", into="backbone")
    assert out["params"]["backbone"]["w"].tolist() == [1.0, 1.0]
    assert out["params"]["neck"]["w"].tolist() == [0.0, 0.0]
    for wrong in ({"w": np.ones(3)}, {"v": np.ones(2)}, {}):
        with pytest.raises(ValueError, match=r"student\.init: f does not fit backbone"):
            start_from(fresh, {"params": wrong}, source="f", into="backbone")


def test_the_moving_average_starts_from_the_same_weights(tmp_path):
    main.run(config(), str(tmp_path / "first"))
    run_config = config(
        **{"student.init": str(tmp_path / "first"), "train.ema_decay": 0.9}
    )
    ready = build(run_config)
    state = with_initial_weights(ready, ready.init())
    for a, b in zip(
        *(by_path(f(state)).values() for f in (student_variables, ema_variables)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
        assert a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer()


def test_a_head_is_inherited_from_the_teacher(finished, tmp_path, monkeypatch):
    fields = {"method": "kd", "teacher.init": str(finished / "teacher")}
    run_config = config(**fields, **{"student.inherit": ("head/*",)})
    with run_config.unlocked():
        run_config.student.options = {"width": 6}
    actual = first_state(run_config, monkeypatch, tmp_path)
    teacher = by_path(load_model(finished / "teacher", OWN).variables)
    for path in actual:
        same = np.array_equal(actual[path], teacher[path])
        assert same or "head" not in path
    assert not np.array_equal(
        actual["params/conv/kernel"], teacher["params/conv/kernel"]
    )


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("neck/*",), r"student.inherit: found 'neck/\*', expected paths of the"),
        (("conv/*",), r"found params/conv/bias \[6\] of the teacher, expected .*\[4\]"),
    ],
)
def test_parameters_that_cannot_be_inherited_are_refused(
    finished, tmp_path, patterns, message
):
    fields = {"method": "kd", "teacher.init": str(finished / "teacher")}
    with pytest.raises(ValueError, match=message):
        main.run(config(**fields, **{"student.inherit": patterns}), str(tmp_path))


def test_inheriting_needs_a_teacher(tmp_path):
    with pytest.raises(ValueError, match=r"student.inherit: .* without a teacher"):
        main.run(config(**{"student.inherit": ("head/*",)}), str(tmp_path))


def test_inheriting_asks_for_the_teacher():
    run_config = config(method="kd", **{"student.inherit": ("head/*",)})
    with run_config.unlocked():
        run_config.student.options = {"width": 6}
    run = build(run_config)
    with pytest.raises(ValueError, match=r"student.inherit: .* no get_teacher, expect"):
        with_initial_weights(run, run.init())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_parts_stay_as_they_are(optimizer, tmp_path):
    fields = {"optimizer.frozen": ("conv/*",), "optimizer.name": optimizer}
    run_config = config(**fields)
    before = by_path(build(run_config).init().params["student"])
    main.run(run_config, str(tmp_path))
    after = by_path(load_model(tmp_path, OWN).variables["params"])
    for path, array in after.items():
        same = np.array_equal(array, before[path])
        assert same == path.startswith("conv/"), path


def test_a_pattern_that_freezes_nothing_is_named():
    with pytest.raises(ValueError, match=r"optimizer.frozen: found 'cnv/\*', expected"):
        build(config(**{"optimizer.frozen": ("cnv/*",)}))


def test_the_teacher_trains_by_its_own_recipe(tmp_path):
    run_config = tiny_config(
        **{
            "method": "kd",
            "train.max_steps": 1,
            "train.ema_decay": 0.9,
            "mix.mixup": 0.8,
            "optimizer.learning_rate": 0.3,
            "teacher.optimizer.learning_rate": 0.01,
            "teacher.schedule.name": "constant",
            "teacher.train.max_steps": 3,
            "teacher.train.ema_decay": 0.0,
            "teacher.mix.mixup": 0.0,
        }
    )
    main.run(run_config, str(tmp_path))
    rate = lambda folder: [
        row["learning_rate"]
        for row in metrics.read_rows(folder / "metrics.jsonl")
        if "learning_rate" in row
    ]
    assert rate(tmp_path / "teacher") == pytest.approx([0.01] * 3)
    assert rate(tmp_path) == pytest.approx([0.3])
    names = {p.name for p in (tmp_path / "teacher").iterdir()}
    assert "model_ema.safetensors" not in names
    assert (tmp_path / "model_ema.safetensors").exists()


def test_agreement_is_a_second_evaluation(finished, tmp_path):
    """It runs on the training split, at its own interval."""
    fields = {"method": "kd", "teacher.init": str(finished / "teacher")}
    run_config = tiny_config(**fields)
    with run_config.unlocked():
        run_config.evaluations = {"agreement": {"every_epochs": 0.5, "split": "train"}}
    main.run(run_config, str(tmp_path))
    rows = metrics.read_rows(tmp_path / "metrics.jsonl")
    actual = {
        r["step"]: r["eval/agreement/same"] for r in rows if "eval/agreement/same" in r
    }
    assert list(actual) == [2, 4, 6, 8]
    assert all(0 <= v <= 1 for v in actual.values())
    ready = build(run_config)
    other = ready.evaluations["agreement"].evaluate
    model = load_model(finished / "teacher", OWN)
    assert other(load_model(tmp_path, OWN).variables, model.variables)["same"] == (
        pytest.approx(actual[8])
    )


@pytest.mark.parametrize(
    ("evaluations", "message"),
    [
        ({"agreement": {"split": "val"}}, r"evaluations.agreement.split: found 'val'"),
        ({"accord": {}}, r"evaluations: found 'accord', expected one of \['agreement'"),
    ],
)
def test_evaluations_that_do_not_exist_are_refused(evaluations, message):
    run_config = tiny_config(method="kd")
    with run_config.unlocked():
        run_config.evaluations = evaluations
    with pytest.raises(ValueError, match=message):
        build(run_config)
