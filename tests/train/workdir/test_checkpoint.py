"""Checkpoints that are damaged, unfinished or of another model are recognised."""

import gc
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from diffkd_jax.core.train_state import TrainState, as_seed
from diffkd_jax.tasks import Task
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.workdir import checkpoint
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints

# On an error Orbax forgets what else it reads, which Python remarks when it is freed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
TASK = Task(None, None, None, None, "score")
STEPS = {4: float("inf"), 8: 0.9, 12: 0.3, 16: float("nan"), 20: 0.4}


def state(step, width=300):
    """Returns a state with enough numbers that most bytes on disk are numbers."""
    values = np.random.default_rng(step).standard_normal((width, 7), np.float32)
    params = {"student": {"w": values}, "distiller": {}}
    on_host = TrainState(np.int32(step), params, {"student": {}}, {"m": values + 1})
    on_host = on_host.replace(seed=as_seed(3))
    return jax.device_put(on_host, sharding.replicated(sharding.make_mesh(1)))


@pytest.fixture(autouse=True)
def collected():
    yield
    gc.collect()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Writes five checkpoints, of which the second has the best score."""
    workdir = tmp_path_factory.mktemp("saved")
    with open_checkpoints(workdir, TASK) as checkpoints:
        for step, score in STEPS.items():
            checkpoint.save_checkpoint(checkpoints, step, state(step), {"score": score})
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return pathlib.Path(shutil.copytree(saved, tmp_path / "run"))


def kept(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def restored(workdir, like=None):
    """Restores a checkpoint, checks its numbers, and returns its step."""
    with open_checkpoints(workdir, TASK) as checkpoints:
        actual = checkpoint.restore(checkpoints, like or state(0))
        step = int(actual.step)
        jax.tree.map(np.testing.assert_array_equal, actual, state(step))
        return step


def test_the_best_and_the_two_newest_stay_also_after_a_resume(workdir):
    assert kept(workdir) == [8, 16, 20]
    with open_checkpoints(workdir, TASK) as checkpoints:
        assert int(checkpoint.restore(checkpoints, state(0)).step) == 20
        checkpoint.save_checkpoint(checkpoints, 24, state(24), {"score": 0.5})
        checkpoint.save_checkpoint(checkpoints, 28, state(28), {"score": 0.6})
    assert kept(workdir) == [8, 24, 28]
    with open_checkpoints(workdir, TASK) as checkpoints:
        checkpoint.save_checkpoint(checkpoints, 32, state(32), {"score": 0.95})
    assert kept(workdir) == [28, 32]


def test_the_newest_of_equal_scores_is_the_best(tmp_path):
    with open_checkpoints(tmp_path, TASK) as checkpoints:
        for step in range(1, 7):
            checkpoint.save_checkpoint(checkpoints, step, state(step), {"score": 0.1})
    assert kept(tmp_path) == [5, 6]


def test_a_checkpoint_that_may_be_undamaged_is_not_moved(workdir, monkeypatch):
    def refuse(directory):
        raise PermissionError(13, "Permission denied", str(directory))

    monkeypatch.setattr(checkpoint, "read_meta", refuse)
    with pytest.raises(OSError, match="Permission denied' on reading the checkpoint"):
        restored(workdir)
    assert kept(workdir) == [8, 16, 20]


def files_of(workdir, step):
    folder = workdir / "checkpoints" / str(step)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flip, pathlib.Path.unlink])
def test_no_damage_gives_other_numbers(saved, tmp_path, damage):
    """Damaging any file of the newest one restores the same state or the one before."""
    steps = set()
    for i, name in enumerate(files_of(saved, 20)):
        workdir = pathlib.Path(shutil.copytree(saved, tmp_path / str(i)))
        damage(workdir / "checkpoints/20" / name)
        steps.add(restored(workdir))
    assert {16} <= steps <= {16, 20}


def test_saving_goes_on_after_a_fall_back(workdir, caplog):
    (workdir / "checkpoints/99").mkdir()
    for file in (workdir / "checkpoints/20/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    with open_checkpoints(workdir, TASK) as checkpoints:
        assert int(checkpoint.restore(checkpoints, state(0)).step) == 16
        checkpoint.save_checkpoint(checkpoints, 20, state(20), {"score": 0.1})
    assert kept(workdir) == [8, 16, 20]
    assert restored(workdir) == 20
    moved = sorted(p.name for p in (workdir / "damaged").iterdir())
    assert moved == ["20", "99"]
    assert "damaged/99" in caplog.text


def test_a_save_that_orbax_does_not_make_is_an_error(workdir):
    with (
        open_checkpoints(workdir, TASK) as checkpoints,
        pytest.raises(ValueError, match="expected none from step 18 on"),
    ):
        checkpoint.save_checkpoint(checkpoints, 18, state(18), {"score": 0.1})


def test_checkpoints_that_all_are_damaged_are_refused_and_kept(workdir):
    for file in (workdir / "checkpoints").glob("*/state/manifest.ocdbt"):
        file.unlink()
    with pytest.raises(ValueError, match=r"found checkpoints \[20, 16, 8\] and none"):
        restored(workdir)
    assert kept(workdir) == [8, 16, 20]


def test_a_checkpoint_of_another_model_is_refused_as_such(workdir):
    message = r"made with another model.*opt_state/m is float32\[300, 7\], expected fl"
    with pytest.raises(ValueError, match=message) as actual:
        restored(workdir, state(0, width=200))
    assert "remove" not in str(actual.value)
    assert "delete" not in str(actual.value)
    assert kept(workdir) == [8, 16, 20]


def test_a_checkpoint_is_restored_on_another_mesh(workdir):
    mesh = sharding.make_mesh(4)
    like = jax.device_put(state(0), sharding.replicated(mesh))
    with open_checkpoints(workdir, TASK) as checkpoints:
        actual = checkpoint.restore(checkpoints, like)
    assert actual.params["student"]["w"].sharding.mesh.size == 4


def test_the_checksum_depends_on_order_and_sign():
    a, b = jnp.arange(3.0), jnp.zeros(2)
    values = [{"x": a, "y": b}, {"x": b, "y": a}, {"x": a, "y": -b}, {"x": a[::-1]}]
    assert len({checkpoint.compute_checksum(v) for v in values}) == 4


def test_a_score_that_is_not_finite_is_never_the_best():
    rows = [{"score": float(x)} for x in ("nan", "0.3", "inf", "-inf")] + [{}]
    for task in (TASK, TASK._replace(higher_is_better=False)):
        assert max(rows, key=task.goodness) == {"score": 0.3}


def test_the_best_score_is_the_smallest_if_smaller_is_better(tmp_path):
    task = TASK._replace(higher_is_better=False)
    with open_checkpoints(tmp_path, task) as checkpoints:
        for step, score in {4: 0.3, 8: 0.1, 12: 0.5, 16: 0.4}.items():
            checkpoint.save_checkpoint(checkpoints, step, state(step), {"score": score})
    assert kept(tmp_path) == [8, 12, 16]


def test_scores_are_on_disk(workdir):
    text = (workdir / "checkpoints/8/meta/metadata").read_text()
    assert json.loads(text)["scores"] == {"score": 0.9}


def change(text):
    return lambda folder: (folder / "meta/metadata").write_text(text)


def change_sharding(folder: pathlib.Path):
    """Changes one bit, for which Orbax raises ``NotImplementedError``."""
    file = folder / "state/_sharding"
    data = file.read_bytes()
    assert b"NamedSharding" in data
    file.write_bytes(data.replace(b"NamedSharding", b"NameDSharding"))


@pytest.mark.parametrize(
    "damage",
    [
        change_sharding,
        change("[1, 2]"),
        change("5"),
        change(json.dumps({"scores": {"score": "high"}, "checksum": 1})),
        change(json.dumps({"scores": {"score": 0.5}, "checktum": 1})),
        change("[" * 100_000),
    ],
)
def test_content_that_is_not_a_checkpoint_counts_as_damage(workdir, damage):
    damage(workdir / "checkpoints/20")
    assert restored(workdir) == 16
    assert kept(workdir) == [8, 16]


def test_a_damaged_best_checkpoint_does_not_prevent_saving(
    workdir,
):
    change("[1]")(workdir / "checkpoints/8")
    with open_checkpoints(workdir, TASK) as checkpoints:
        checkpoint.save_checkpoint(checkpoints, 24, state(24), {"score": 0.1})
    assert restored(workdir) == 24


def test_swapped_checkpoints_count_as_damaged(workdir, caplog):
    folder = workdir / "checkpoints"
    os.rename(folder / "8", folder / "x")
    os.rename(folder / "20", folder / "8")
    os.rename(folder / "x", folder / "20")
    assert restored(workdir) == 16
    assert "it holds step 8" in caplog.text


def test_saving_does_not_query_preemption_notices(tmp_path, monkeypatch):
    """A query would set back the trainer's count of queries, and lose a stop."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    with open_checkpoints(tmp_path, TASK) as checkpoints:
        for step in (4, 8):
            checkpoint.save_checkpoint(checkpoints, step, state(step), {"score": 0.1})
    assert asked == []
