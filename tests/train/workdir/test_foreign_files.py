"""A run overwrites no foreign file, and does not take one for its own."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffkd_jax import main
from diffkd_jax.train import build
from diffkd_jax.weights.files import export_torch, load_model
from diffkd_jax.weights.output_files import EMA_FILE, MODEL_FILE
from tests.helpers.configs import tiny_config
from tests.helpers.goldens import GOLDEN

TORCH = GOLDEN / "torch_files/zip.pth"


def torch_weights(path):
    save_file({"fc.bias": np.ones(2, np.float32)}, path)


def zipped(path):
    shutil.copy(TORCH, path)


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\nsize 44789\n")


FOREIGN = [torch_weights, zipped, pointer]


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a step was made")

    monkeypatch.setattr(build.sharding, "jit_step", lambda *a: refuse)


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("write", [*FOREIGN, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", [MODEL_FILE, EMA_FILE])
def test_a_model_in_a_new_workdir_is_refused(write, name, tmp_path, no_training):
    write(tmp_path / name)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"^workdir: found .*{name}, a model with"):
        main.run(tiny_config(method="none"), str(tmp_path))
    assert contents(tmp_path).items() - before.items() <= {(tmp_path / "lock", b"")}


def test_a_model_of_ours_without_its_run_is_not_overwritten(
    finished, tmp_path, no_training
):
    """It may come from import_weights, or from a run whose checkpoints were removed."""
    shutil.copy(finished / MODEL_FILE, tmp_path)
    shutil.copy(finished / "config.json", tmp_path)
    with pytest.raises(ValueError, match="a model without a checkpoint or a summary"):
        main.run(tiny_config(), str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", json.dumps({"architectures": ["ResNet"], "num_labels": 10})),
        ("config.json", "{"),
        ("metrics.jsonl", '{"loss": 1}\n'),
        ("report.html", "<html>mine</html>"),
        ("plots/score.png", "mine"),
    ],
)
def test_other_files_of_the_user_are_refused(name, content, tmp_path, no_training):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    top = tmp_path / name.partition("/")[0]
    with pytest.raises(
        ValueError, match=rf"^workdir: found {top}, (a file|which lies)"
    ):
        main.run(tiny_config(method="none"), str(tmp_path))
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    "name", ["report.html", "summary.json", MODEL_FILE, "plots", "checkpoints"]
)
def test_a_folder_in_place_of_a_file_is_refused_and_the_reverse(
    name, finished, tmp_path, no_training
):
    """Otherwise it would be found at the end of a run."""
    run = shutil.copytree(finished, tmp_path / "run")
    if (run / name).is_dir():
        shutil.rmtree(run / name)
        (run / name).write_text("mine")
    else:
        (run / name).unlink()
        (run / name).mkdir()
    with pytest.raises(
        ValueError, match=rf"^workdir: found {run / name}, (a|not a) di"
    ):
        main.run(tiny_config(), str(run))


@pytest.mark.parametrize("write", FOREIGN)
@pytest.mark.parametrize("removed", [(), ("summary.json",)])
def test_a_run_with_a_foreign_model_does_not_count_as_finished(
    write, removed, finished, tmp_path, no_training
):
    run = shutil.copytree(finished, tmp_path / "run")
    for name in removed:
        (run / name).unlink()
    write(run / MODEL_FILE)
    foreign = (run / MODEL_FILE).read_bytes()
    with pytest.raises(ValueError, match=rf"^workdir: found .* in {run}/{MODEL_FILE},"):
        main.run(tiny_config(), str(run))
    assert (run / MODEL_FILE).read_bytes() == foreign


def test_an_export_with_names_of_pytorch_is_foreign_too(resnet, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    export_torch(run / MODEL_FILE, load_model(resnet))
    with pytest.raises(ValueError, match="found weights of another program in"):
        main.run(tiny_config(), str(run))
    shutil.move(run / MODEL_FILE, tmp_path / "mine.safetensors")
    main.run(tiny_config(), str(run))  # writes its own again
    load_model(run, "tests.helpers.own_model:make")


@pytest.mark.parametrize("content", [b"", bytes(5000), b"\1\2\3\xff" * 99])
def test_a_damaged_model_is_made_again(content, finished, tmp_path, caplog):
    run = shutil.copytree(finished, tmp_path / "run")
    whole = (run / MODEL_FILE).read_bytes()
    (run / MODEL_FILE).write_bytes(content or whole[:900])
    main.run(tiny_config(), str(run))
    assert "model.safetensors: found no whole file" in caplog.text
    assert (run / MODEL_FILE).read_bytes() == whole


def test_a_comparison_and_a_run_do_not_share_a_workdir(finished, tmp_path, no_training):
    run = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run of its own, whose report"):
        main.run(tiny_config(compare=("none", "kd")), str(run))
    (tmp_path / "study").mkdir()
    shutil.copy(run / "report.html", tmp_path / "study")
    with pytest.raises(ValueError, match=r"found .*report\.html, which lies there"):
        main.run(tiny_config(), str(tmp_path / "study"))


def test_evaluation_of_a_comparison_names_its_runs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "diffkd")
    config = tiny_config(mode="evaluate")
    with pytest.raises(FileNotFoundError, match=r"but the runs \['diffkd'\]"):
        main.run(config, str(tmp_path))
