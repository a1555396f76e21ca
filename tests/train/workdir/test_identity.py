"""The record of a workdir may be old, truncated, missing, in use or of another run."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from diffkd_jax import __version__, main
from diffkd_jax.config.finished_run import as_trained
from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.commands import train as runs
from diffkd_jax.train.outputs import metrics
from diffkd_jax.train.workdir import directory, disk_errors, lock
from diffkd_jax.train.workdir.claim import claim_workdir
from diffkd_jax.weights.files import load_model
from diffkd_jax.weights.output_files import MODEL_FILE
from tests.helpers.configs import ROOT, tiny_config


@pytest.fixture
def copied(finished, tmp_path):
    """Returns ``(**changes) -> workdir``, a finished run with changes in its record."""

    def copy(**changes):
        run = shutil.copytree(finished, tmp_path / "copied")
        record = json.loads((run / "config.json").read_text()) | changes
        values = {name: value for name, value in record.items() if value is not None}
        (run / "config.json").write_text(json.dumps(values))
        return run

    return copy


def contents(folder):
    """Returns all files but the locks, which a run that holds one removes."""
    files = [f for f in folder.rglob("*") if f.is_file() and f.name != "lock"]
    return {file.relative_to(folder): file.read_bytes() for file in files}


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("version", [None, "0.1.0", "0.2.0", "0.3.0", "mine"])
def test_a_run_of_a_version_before_0_4_is_refused(copied, version, stopped):
    run = copied(version=version)
    if stopped:
        (run / "summary.json").unlink()
    before = contents(run)
    message = f"found version {version or 'none'}, expected 0.4 or later; choose anoth"
    with pytest.raises(ValueError, match=message):
        main.run(tiny_config(), str(run))
    for mode in ("evaluate", "predict"):
        with pytest.raises(ValueError, match=message):
            main.run(tiny_config(mode=mode), str(run))
    assert contents(run) == before


def test_a_run_of_another_later_version_goes_on(copied, caplog):
    claim_workdir(resolve(tiny_config()), copied(version="0.4.99"))
    assert f"begun by version 0.4.99, goes on in {__version__}" in caplog.text


def test_a_field_that_a_record_lacks_counts_as_its_default(copied):
    train = tiny_config().train.to_dict()
    del train["distill_every"]
    run = copied(version="0.4.99", train=train)
    message = (
        r"version 0\.4\.99, this is .*\n  train\.distill_every: found 1, expected 2"
    )
    with pytest.raises(ValueError, match=message):
        claim_workdir(resolve(tiny_config(**{"train.distill_every": 2})), run)
    claim_workdir(resolve(tiny_config()), run)


def test_a_field_that_no_longer_exists_is_an_error_if_it_was_used(copied):
    with pytest.raises(ValueError, match="gone: found 3, expected 'nothing'"):
        claim_workdir(resolve(tiny_config()), copied(gone=3))


@pytest.mark.parametrize("folder", ["2026-11-23_cifar10", "2026-11-23_fashion_mnist"])
def test_weights_that_earlier_versions_exported_load(folder):
    model = load_model(ROOT / "experiments" / folder / "teacher.safetensors")
    logits = model(np.zeros((2, *model.meta["input_shape"]), np.float32))["logits"]
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()


def test_the_record_says_version_and_classes(finished):
    record = directory.read_json_object(finished / "config.json")
    assert record["version"] == __version__
    assert len(record["classes"]) == 10


def test_classes_that_only_one_version_names_are_the_same(finished):
    """An example is MNIST, for which earlier versions had the names of clothes."""
    numbers = [str(k) for k in range(10)]
    claim_workdir(resolve(tiny_config()), finished, {"classes": numbers})
    with pytest.raises(ValueError, match="data of classes"):
        claim_workdir(resolve(tiny_config()), finished, {"classes": numbers[:9]})


def test_data_of_other_classes_are_refused_as_such(finished):
    names = ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"data of classes \(T-shirt, .*found \(a, b"):
        claim_workdir(resolve(tiny_config()), finished, {"classes": names})


def test_data_of_other_sizes_are_refused_as_such(finished):
    with pytest.raises(ValueError, match=r"data of images \(64, 64\), found \(65, 64"):
        claim_workdir(resolve(tiny_config()), finished, {"pictures": [65, 64]})
    claim_workdir(resolve(tiny_config()), finished, {"pictures": [64, 64]})


@pytest.mark.parametrize(
    ("name", "taken"), [("report.html", True), (MODEL_FILE, False)]
)
def test_a_finished_run_without_checkpoints_is_not_trained_again(
    finished, tmp_path, name, taken
):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / name).unlink()
    if taken:
        assert directory.read_summary(run, "top1")["steps"] == 8
        main.run(tiny_config(), str(run))
    else:
        with pytest.raises(ValueError, match="without checkpoints to make it from"):
            main.run(tiny_config(), str(run))
    assert not (run / "checkpoints").exists()


def test_a_finished_run_is_read_from_a_directory_without_write_access(
    finished, monkeypatch
):
    def refuse(*arguments, **options):
        raise PermissionError("not yours")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    main.run(tiny_config(), str(finished))


def test_data_are_found_from_another_folder(tmp_path, monkeypatch):
    """The record holds where a relative path was."""
    for folder in ("here/images", "run", "other"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    config = tiny_config(**{"data.path": "images"})
    claim_workdir(resolve(config), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    actual = as_trained(tiny_config(), tmp_path / "run", fields_set=())
    assert actual["data"]["path"] == str(tmp_path / "here/images")
    claim_workdir(resolve(tiny_config(**{"data.path": "a name"})), tmp_path / "other")
    assert json.loads((tmp_path / "other/config.json").read_text())["data"]["path"] == (
        "a name"
    )


def test_data_that_moved_are_accepted(finished):
    config = tiny_config(**{"data.path": "/elsewhere"})
    claim_workdir(resolve(config), finished)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"found a run in .* and no config\.json"),
        ('{"name": ', r"config\.json: found no readable JSON"),
        ("[1]", r"config\.json: found list, expected an object"),
    ],
)
def test_a_record_that_is_missing_or_truncated_is_refused(copied, content, message):
    run = copied()
    record = run / "config.json"
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(ValueError, match=message):
        claim_workdir(resolve(tiny_config(**{"optimizer.learning_rate": 0.3})), run)


def test_missing_files_of_a_finished_run_are_made_again(finished, tmp_path, caplog):
    run = shutil.copytree(finished, tmp_path / "run")
    wanted = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text('{"name": ')
    (run / MODEL_FILE).unlink()
    lines = (run / "metrics.jsonl").read_bytes().splitlines()
    lines[2:2] = [b"\xff\xfe not text", b"[1, 2]", b'{"no": "step"}']
    (run / "metrics.jsonl").write_bytes(b"\n".join(lines[:-1]) + b"\n")
    main.run(tiny_config(), str(run))
    actual = json.loads((run / "summary.json").read_text())
    for name in wanted.keys() - {"images_per_second"}:
        assert actual[name] == wanted[name], name
    assert "left out 3 lines that are not rows: [3, 4, 5]" in caplog.text
    assert "summary.json: found no readable JSON" in caplog.text
    rows = metrics.read_rows(run / "metrics.jsonl")
    assert [r["step"] for r in rows if "loss/total" in r] == list(range(1, 9))


HOLD = """
import pathlib, sys
from diffkd_jax.train.workdir import lock
with lock.lock_workdir(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_workdir_in_use_is_refused_until_its_run_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        message = r"is in use by another run"
        with pytest.raises(OSError, match=message), lock.lock_workdir(tmp_path):
            pass
        other.kill()
    with lock.lock_workdir(tmp_path):
        pass


def test_a_full_disk_is_reported_in_one_line(tmp_path):
    message = f"workdir: found No space left on device at {tmp_path}"
    error = RuntimeError("in a thread")
    error.__cause__ = OSError(28, "No space left on device")
    with (
        pytest.raises(OSError, match=message),
        disk_errors.report_disk_faults(tmp_path),
    ):
        raise error
    with pytest.raises(KeyError), disk_errors.report_disk_faults(tmp_path):
        raise KeyError("something else")


def test_a_workdir_that_is_moved_away_is_named(tmp_path):
    """The run resumes from its last checkpoint when the workdir is back."""
    run, away = tmp_path / "run", tmp_path / "away"

    def should_stop():
        if (run / "checkpoints/4").exists():
            run.rename(away)
        return False

    config = tiny_config(method="none", log_every_steps=1)
    with pytest.raises(OSError, match=f"workdir: found {run} moved or removed while"):
        runs.train(config, run, should_stop)
    shutil.rmtree(run, ignore_errors=True)
    away.rename(run)
    assert runs.train(config, run)["steps"] == 8


def test_an_error_in_a_workdir_that_was_never_there_is_raised_as_it_is(tmp_path):
    with pytest.raises(KeyError), disk_errors.report_moved_workdir(tmp_path):
        raise KeyError("mine")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(KeyError), disk_errors.report_moved_workdir(tmp_path):
        raise KeyError("mine")
