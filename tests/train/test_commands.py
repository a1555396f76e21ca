"""Runs from config to report, in one process."""

import functools
import json
import shutil
import signal

import chex
import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.train import fit, loop
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands import compile_ahead
from diffkd_jax.train.commands import train as commands
from diffkd_jax.train.components import make_model
from diffkd_jax.train.outputs import metrics, report
from diffkd_jax.train.outputs.summary import describe_run
from diffkd_jax.train.teacher import load_teacher
from diffkd_jax.weights.files import export_torch, load_model
from diffkd_jax.weights.output_files import EMA_FILE, MODEL_FILE
from diffkd_jax.weights.untrained import build_untrained
from tests.helpers.configs import RESNET, load_config, resnet_config, tiny_config

OWN = tiny_config().student.model


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def with_teacher(finished, **fields):
    return tiny_config(**{"teacher.init": str(finished / "teacher")} | fields)


def same_student(a, b):
    loaded = (load_model(f, OWN) for f in (a, b))
    chex.assert_trees_all_equal(*(model.variables for model in loaded))


def test_a_run_writes_all_its_files(finished):
    rows = metrics.read_rows(finished / "metrics.jsonl")
    assert [r["step"] for r in rows if "loss/total" in r] == list(range(1, 9))
    assert [r["step"] for r in rows if "eval/top1" in r] == [4, 8]
    row = rows[0]
    terms = ["task", *(f"{t}/{n}" for t in ("features", "logits")
                       for n in ("distance", "diffusion"))]  # fmt: skip
    assert row["loss/total"] == pytest.approx(
        sum(row[f"loss/{n}"] for n in terms), 1e-5
    )
    assert sum(row["gamma/features/histogram"]) == 16
    assert row["gamma/logits/min"] <= row["gamma/logits/mean"] <= 1
    assert row["learning_rate"] == pytest.approx(0.1)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 8
    assert 0 <= summary["final_top1"] <= 1
    assert summary["teacher_top1"] == pytest.approx(
        json.loads((finished / "teacher/summary.json").read_text())["final_top1"]
    )
    events = EventAccumulator(str(finished / "events")).Reload()
    assert len(events.Scalars("loss/total")) == 8
    assert not list(finished.rglob("*.partial"))


def test_report_needs_no_network(finished):
    page = (finished / "report.html").read_text()
    plots = sorted(p.name for p in (finished / "plots").iterdir())
    assert plots == [
        "confusion.png",
        "gamma_features.png",
        "gamma_logits.png",
        "losses.png",
        "score.png",
        "trajectory_features.png",
        "trajectory_logits.png",
    ]
    assert page.count("data:image/png;base64,") == 7
    assert "http" not in page
    assert "src=" not in page.replace('src="data:', "")


def test_a_finished_run_is_left_alone(finished, capsys):
    before = snapshot(finished)
    main.run(tiny_config(), str(finished))
    assert snapshot(finished) == before
    assert "finished already" in capsys.readouterr().out


def test_an_export_that_the_run_did_not_write_is_named(finished, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    main.run(tiny_config(), str(run))
    assert "did not write" not in caplog.text
    shutil.copy(finished / "teacher" / MODEL_FILE, run / MODEL_FILE)
    result = commands.train(tiny_config(), run)
    assert (
        f"{run / MODEL_FILE}: found a file that this run did not write" in caplog.text
    )
    assert "sha256" not in result
    summary = json.loads((run / "summary.json").read_text())
    del summary["sha256"]  # as an earlier version wrote it
    (run / "summary.json").write_text(json.dumps(summary))
    caplog.clear()
    main.run(tiny_config(), str(run))
    assert "did not write" not in caplog.text


TIME_AWARE = {"methods.diffkd.time_aware": True, "methods.diffkd.min_noise": 0.1}


@pytest.mark.parametrize(
    ("method", "num_workers", "fields"),
    [
        ("kd", 0, {}),
        ("kd", 1, {}),
        ("kd", 0, {"train.distill_every": 3}),
        ("kd", 0, {"train.distill_warmup_epochs": 2.0}),
        pytest.param("diffkd", 0, {}, marks=pytest.mark.slow),
        pytest.param("diffkd", 0, TIME_AWARE, marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    finished, tmp_path, monkeypatch, method, num_workers, fields
):
    fields = {"method": method, **fields}
    config = with_teacher(finished, **fields, **{"data.num_workers": num_workers})
    main.run(with_teacher(finished, **fields), str(tmp_path / "whole"))

    def interrupt(event, step):
        if (event, step) == ("log", 6):
            raise KeyboardInterrupt

    stopping = functools.partial(fit.fit, events=interrupt)
    monkeypatch.setattr(commands, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        main.run(config, str(tmp_path / "parts"))
    assert not (tmp_path / "parts/summary.json").exists()
    monkeypatch.setattr(commands, "fit", fit.fit)
    main.run(config, str(tmp_path / "parts"))
    same_student(tmp_path / "parts", tmp_path / "whole")
    files = [tmp_path / name / "metrics.jsonl" for name in ("parts", "whole")]
    rows = [metrics.read_rows(file) for file in files]
    losses = [[r["loss/total"] for r in part if "loss/total" in r] for part in rows]
    np.testing.assert_array_equal(*losses)


def test_the_weight_of_a_distance_rises_over_the_first_epochs():
    run = build(tiny_config(method="kd", **{"train.distill_warmup_epochs": 1.0}))
    weights, epoch = run.pure_step.keywords["weights"], run.plan.steps_per_epoch
    steps = (0, epoch // 2, epoch, 2 * epoch)
    values = [float(weights["logits/distance"](step)) for step in steps]
    assert values == pytest.approx([0.0, 0.45, 0.9, 0.9])
    assert weights["task"] == 0.1
    assert "distance x a schedule" in describe_run(run)


def test_a_damaged_checkpoint_falls_back(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (workdir / "summary.json").unlink()
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
    assert steps[-1] == 8
    for file in (workdir / "checkpoints/8/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    with_older = steps[0] == 4
    if with_older:
        main.run(tiny_config(), str(workdir))
        assert "resuming at step 4" in capsys.readouterr().out
        same_student(workdir, finished)
    else:
        with pytest.raises(ValueError, match="none that can be read"):
            main.run(tiny_config(), str(workdir))


def test_the_best_and_the_two_last_checkpoints_are_kept(tmp_path, monkeypatch):
    config = tiny_config(method="none", **{"train.epochs": 5.0})
    values, original = iter([0.1, 0.5, 0.2, 0.3, 0.4]), loop.evaluate_student

    def evaluate(*arguments):
        scores, evidence = original(*arguments)
        return scores | {"top1": next(values)}, evidence

    monkeypatch.setattr(loop, "evaluate_student", evaluate)
    main.run(config, str(tmp_path))
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert steps == [8, 16, 20]


def test_a_checkpoint_that_is_scored_later_counts_by_that_score(tmp_path, monkeypatch):
    """Stopped before its evaluation, it is saved without scores."""
    config = tiny_config(method="none", **{"train.epochs": 5.0})
    values, original = iter([None, 0.9, 0.2, 0.3, 0.1, 0.4]), loop.evaluate_student

    def evaluate(*arguments):
        if (value := next(values)) is None:
            raise Stopped("in the evaluation", signal.SIGTERM)
        scores, evidence = original(*arguments)
        return scores | {"top1": value}, evidence

    monkeypatch.setattr(loop, "evaluate_student", evaluate)
    with pytest.raises(Stopped, match="stopped at step 4 of 20"):
        main.run(config, str(tmp_path))
    main.run(config, str(tmp_path))
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 16, 20]


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("kd", {}),
        pytest.param("diffkd", {}, marks=pytest.mark.slow),
        pytest.param("diffkd", TIME_AWARE, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(finished, tmp_path, method, fields):
    fields = {"train.max_steps": 3, "method": method, **fields}
    for name, devices in (("one", 1), ("eight", 8)):
        config = with_teacher(finished, num_devices=devices, **fields)
        main.run(config, str(tmp_path / name))
    one, eight = (
        metrics.read_rows(tmp_path / name / "metrics.jsonl")
        for name in ("one", "eight")
    )
    for a, b in zip(one[:3], eight[:3], strict=True):
        for name in a:
            if name.startswith("loss/"):
                assert a[name] == pytest.approx(b[name], rel=2e-4), (a["step"], name)


def test_distilling_at_some_steps_only(tmp_path):
    """Rows hold means over the steps that have a loss; the first step has all."""
    actual = []
    for every, log in ((1, 1), (3, 1), (3, 4)):
        fields = {"train.distill_every": every, "log_every_steps": log}
        workdir = tmp_path / f"{every}_{log}"
        main.run(tiny_config(method="kd", **fields), str(workdir))
        rows = metrics.read_rows(workdir / "metrics.jsonl")
        actual.append({row["step"]: row for row in rows if "loss/task" in row})
    each, third, means = actual
    name = "loss/logits/distance"
    assert [step for step, row in third.items() if name in row] == [1, 4, 7]
    assert third[1][name] == pytest.approx(each[1][name], rel=1e-5)
    mean = lambda name, steps: np.mean([third[step][name] for step in steps])
    assert means[4][name] == pytest.approx(mean(name, (1, 4)), rel=1e-5)
    assert means[8][name] == pytest.approx(third[7][name], rel=1e-5)
    task = mean("loss/task", range(1, 5))
    assert means[4]["loss/task"] == pytest.approx(task, rel=1e-5)


@pytest.mark.parametrize(
    "method", ["kd", pytest.param("diffkd", marks=pytest.mark.slow)]
)
def test_seeds_differ_and_repeat(finished, tmp_path, method):
    fields = {"train.max_steps": 1, "method": method}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        main.run(with_teacher(finished, seed=seed, **fields), str(tmp_path / name))
    same_student(tmp_path / "a", tmp_path / "b")
    losses = [
        metrics.read_rows(tmp_path / n / "metrics.jsonl")[0]["loss/total"]
        for n in "abc"
    ]
    assert losses[0] == losses[1] != losses[2]


def test_evaluate_changes_nothing(finished, capsys):
    before = snapshot(finished)
    main.run(tiny_config(mode="evaluate"), str(finished))
    assert snapshot(finished) == before
    summary = json.loads((finished / "summary.json").read_text())
    assert f"top1 {summary['final_top1']:.4f}" in capsys.readouterr().out


def test_dry_run_prints_the_table_and_writes_nothing(tmp_path, capsys):
    main.run(tiny_config(dry_run=True), str(tmp_path / "run"))
    out = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert "features 7x7x4" in out
    assert "features 7x7x6" in out
    assert "distance x 1" in out
    assert "multiply-adds" in out


def test_student_export_is_a_bare_student(finished):
    model = load_model(finished, OWN)
    assert set(model.variables) == {"params", "batch_stats"}
    assert set(model.variables["params"]) == {"conv", "norm", "head"}
    assert model.meta["class_names"][0] == "T-shirt"
    out = model(np.zeros((2, 28, 28, 1), np.float32))
    assert out["logits"].shape == (2, 10)


def test_comparison_shares_one_teacher(tmp_path, capsys):
    fields = {"train.max_steps": 2, "train.epochs": 1.0}
    config = tiny_config(compare=("none", "kd", "dist"), **fields)
    main.run(config, str(tmp_path))
    out = capsys.readouterr().out
    assert out.count("tiny-teacher (none): top1") == 1
    assert "tiny-teacher: finished already" not in out
    assert "minus none" in out
    assert (tmp_path / "plots/comparison.png").exists()
    page = (tmp_path / "report.html").read_text()
    assert 'href="kd/report.html"' in page
    assert (tmp_path / "kd/report.html").exists()


def test_spatial_rule_shows_in_the_table(capsys):
    config = load_config("quickstart")
    config.dry_run = True
    config.methods.diffkd.teacher = "stage2"
    main.run(config)
    assert "teacher 14x14 -> 7x7 by average pooling" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "dkkd"}, "method: found 'dkkd', expected one of .*'diffkd'"),
        ({"mode": "test"}, "mode: found 'test'"),
        ({"student.model": "resnet9"}, "model: found 'resnet9'"),
        ({"data.eval_split": "holdout"}, r"data\.holdout: found 0"),
        ({"data.eval_split": "val"}, r"data\.eval_split: found 'val'"),
        ({"data.holdout": 8000}, r"data\.holdout: found 8000"),
        ({"data.num_classes": 100}, r"data\.num_classes: found 100, expected 10"),
        ({"data.name": "nothing"}, r"data\.name: found 'nothing'"),
        ({"schedule.name": "linear"}, r"schedule\.name: found 'linear'"),
        ({"num_devices": 9}, "num_devices: found 9"),
        (
            {"teacher.init": "", "teacher.epochs": 0.0},
            r"teacher\.init: found ''",
        ),
        ({"train.epochs": 0.0}, r"train\.epochs, data\.batch_size: found 0\.0"),
        ({"data.batch_size": 128}, r"train\.epochs, data\.batch_size: .* and 128"),
        ({"teacher.init": "/nowhere"}, "/nowhere: found nothing"),
        (
            {"methods.diffkd.student": "stage9"},
            "tap 'features': student output: found no 'stage9', expected .*'features'",
        ),
        (
            {"methods.diffkd.distance": "l2"},
            r"^methods\.diffkd\.distance: found 'l2', expected one of \['mse'",
        ),
        (
            {"method": "diffkd_map", "methods.diffkd_map.distance": "l2"},
            r"^methods\.diffkd_map\.distance: found 'l2', expected one of \['mse'",
        ),
        (
            {"methods.diffkd": {"tua": 2.0}},
            r"methods\.diffkd\.tua: found 2\.0, expected any of .*'tau'",
        ),
        (
            {"methods.diffkd": {"num_steps": -1}},
            r"methods\.diffkd\.num_steps: found -1, expected an integer at",
        ),
        (
            {"method": "kd", "weights": {"task": float("nan")}},
            "weights.task: found nan, expected a number at least 0",
        ),
    ],
)
def test_bad_fields_are_named(fields, message, finished, tmp_path):
    config = tiny_config(**{"teacher.init": str(finished / "teacher")})
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main.run(config, str(tmp_path))
    assert not (tmp_path / "summary.json").exists()


def test_a_weight_for_no_loss_is_named(finished, tmp_path):
    config = with_teacher(finished)
    with config.weights.unlocked():
        config.weights["logits/distanse"] = 2.0
    with pytest.raises(ValueError, match=r"weights: found \['logits/distanse'\]"):
        main.run(config, str(tmp_path))


def test_a_teacher_of_another_architecture_is_refused(resnet, tmp_path):
    fields = RESNET | {"teacher.init": str(resnet), "teacher.model": "resnet14"}
    message = r"teacher\.init: .* holds model resnet8, expected resnet14"
    with pytest.raises(ValueError, match=message):
        main.run(resnet_config(**fields), str(tmp_path))


def test_a_poor_teacher_is_refused(finished, tmp_path, monkeypatch):
    # The process would wait for what is compiled.
    monkeypatch.setattr(commands, "compile_ahead", lambda run: pytest.fail("compiled"))
    config = with_teacher(finished, **{"teacher.min_score": 0.99})
    with pytest.raises(ValueError, match=r"teacher\.min_score: found a teacher of 0\."):
        main.run(config, str(tmp_path))


def test_weights_of_a_pytorch_definition_are_a_teacher(resnet, tmp_path):
    """The same teacher in the layout of PyTorch gives the same run."""
    file = tmp_path / "teacher.safetensors"
    export_torch(file, load_model(resnet))
    for name, init in (("ours", resnet), ("torch", file)):
        fields = {"method": "kd", "teacher.init": str(init), "train.max_steps": 2}
        main.run(resnet_config(**fields), str(tmp_path / name))
    same_student(tmp_path / "ours", tmp_path / "torch")


def test_mixing_erasing_and_the_moving_average_train_together(tmp_path):
    fields = {"mix.mixup": 0.8, "mix.cutmix": 1.0, "mix.erase": 0.25}
    fields |= {"method": "none", "train.ema_decay": 0.9, "train.label_smoothing": 0.1}
    main.run(tiny_config(**fields), str(tmp_path))
    rows = report.read_rows_with(tmp_path, "eval/ema_top1")
    assert len(rows) == 2
    assert rows[-1]["eval/ema_loss"] != rows[-1]["eval/loss"]
    raw, average = (load_model(f, OWN) for f in (tmp_path, tmp_path / EMA_FILE))
    assert raw.meta == average.meta
    kernels = [m.variables["params"]["conv"]["kernel"] for m in (raw, average)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


def test_the_teacher_runs_with_folded_batch_norms(resnet):
    config = resnet_config()
    expected = make_model(
        "teacher", resolve(config).teacher, open_data(resolve(config).data)
    )
    teacher = load_teacher(resnet, expected)
    block = teacher.variables["params"]["stage1"]["block0"]
    assert set(block["conv0"]) == {"conv"}
    assert "bias" in block["conv0"]["conv"]


def test_a_teacher_of_other_classes_gives_features(resnet, tmp_path, capsys):
    model = load_model(resnet)
    other = build_untrained(
        "resnet8", model.meta["options"], {"num_classes": 7}, (28, 28, 1)
    )
    params = model.variables["params"]
    head = {
        k: np.ones((*v.shape[:-1], 7), np.float32) for k, v in params["head"].items()
    }
    variables = model.variables | {"params": params | {"head": head}}
    export_torch(tmp_path / "other.safetensors", other._replace(variables=variables))
    fields = {
        "method": "mse",
        "teacher.init": str(tmp_path / "other.safetensors"),
        "train.max_steps": 2,
    }
    with pytest.raises(ValueError, match=r"a head of 7 classes, expected 10 \(teacher"):
        main.run(resnet_config(**fields), str(tmp_path / "a"))
    fields["teacher.num_classes"] = 7
    main.run(resnet_config(**fields), str(tmp_path / "b"))
    assert "teacher  7 classes, the data 10: not evaluated" in capsys.readouterr().out
    fields["teacher.min_score"] = 0.5
    with pytest.raises(ValueError, match="expected none: it cannot be checked"):
        main.run(resnet_config(**fields), str(tmp_path / "c"))


def test_a_teacher_in_bfloat16(finished, tmp_path):
    config = with_teacher(
        finished, **{"teacher.dtype": "bfloat16", "student.dtype": "bfloat16"}
    )
    main.run(config, str(tmp_path))
    rows = metrics.read_rows(tmp_path / "metrics.jsonl")
    terms = [k for k in rows[-2] if k.startswith("loss/")]
    assert len(terms) >= 6
    assert np.isfinite([rows[-2][k] for k in terms]).all()
    variables = load_model(tmp_path, OWN).variables
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_a_damaged_teacher_is_refused(finished, tmp_path):
    file = tmp_path / "teacher.safetensors"
    file.write_bytes((finished / "teacher" / MODEL_FILE).read_bytes()[:900])
    config = tiny_config(**{"teacher.init": str(file)})
    with pytest.raises(ValueError, match=r"teacher.safetensors: .*expected weights in"):
        main.run(config, str(tmp_path / "run"))


def test_a_workdir_of_another_config_is_refused(finished):
    before = snapshot(finished)
    config = tiny_config(**{"optimizer.learning_rate": 0.3})
    with pytest.raises(ValueError, match=r"learning_rate: found 0\.1, expected 0\.3"):
        main.run(config, str(finished))
    assert snapshot(finished) == before


def test_a_class_count_that_differs_is_refused(finished, tmp_path):
    image = np.zeros((20, 28, 28, 1), np.uint8)
    label = np.arange(20) % 3
    file = tmp_path / "three.npz"
    splits = {f"{s}/{n}": v for s in ("train", "test")
              for n, v in (("image", image), ("label", label))}  # fmt: skip
    np.savez(file, **splits)
    fields = {"data.name": "npz", "data.path": str(file), "data.num_classes": 0}
    config = with_teacher(finished, **fields)
    with pytest.raises(ValueError, match="holds num_classes 10, expected 3"):
        main.run(config, str(tmp_path / "run"))
    config = tiny_config(mode="evaluate", **fields)
    with pytest.raises(ValueError, match="a student of 10 classes, expected 3"):
        main.run(config, str(finished))


def test_own_model_by_import_path(finished):
    model = load_model(finished, OWN)
    assert model.variables["params"]["conv"]["kernel"].shape == (3, 3, 1, 4)
    assert type(model.module).__name__ == "Own"


def test_a_workdir_in_a_bucket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="workdir: found 'gs://bucket/run', expected"):
        main.run(tiny_config(), "gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_a_run_that_failed_before_its_first_checkpoint_does_not_claim_its_workdir(
    finished, tmp_path
):
    with pytest.raises(FileNotFoundError):
        main.run(tiny_config(**{"teacher.init": "/nowhere"}), str(tmp_path))
    fields = {"train.max_steps": 1, "method": "none"}
    main.run(with_teacher(finished, **fields), str(tmp_path))
    assert (tmp_path / "summary.json").exists()


def count_compilations(log, name):
    return log.count(f"Finished XLA compilation of jit({name})")


def test_what_is_compiled_ahead_is_what_runs(monkeypatch, tmp_path, caplog):
    run = build(tiny_config())
    params, carried = run.teacher.init(jax.random.key(1), run.shapes.batch)
    variables = {"params": params, **carried}
    run = run._replace(teacher=run.teacher._replace(variables=variables))
    assert compile_ahead.compile_ahead(run) is run  # without a folder
    monkeypatch.setattr(compile_ahead, "traces_folder", lambda: tmp_path)
    jax.config.update("jax_log_compiles", True)  # in all threads
    try:
        ahead = compile_ahead.compile_ahead(run)
        state = ahead.init()
        for batch in training_batches(run):
            del batch["skipped"]
            state, _ = ahead.step(state, run.teacher_variables, batch, True)
    finally:
        jax.config.update("jax_log_compiles", False)
    assert int(state.step) == run.plan.total_steps
    assert count_compilations(caplog.text, "init") == 1
    assert count_compilations(caplog.text, "placed") == 1


def test_an_error_of_the_compiler_reaches_the_caller(monkeypatch, tmp_path):
    class Broken:
        def lower(self, *args):
            return self

        def compile(self):
            raise MemoryError("RESOURCE_EXHAUSTED")

    run = build(tiny_config(method="none"))
    monkeypatch.setattr(compile_ahead, "traces_folder", lambda: tmp_path)
    ahead = compile_ahead.compile_ahead(run._replace(step=Broken()))
    state = ahead.init()
    with pytest.raises(MemoryError, match="RESOURCE_EXHAUSTED"):
        ahead.step(state, {}, {}, True)
