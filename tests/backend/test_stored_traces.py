"""Traced programs are kept, give the same numbers, and are never trusted."""

import jax
import numpy as np
import pytest

from diffkd_jax.backend import stored_traces
from diffkd_jax.backend.stored_traces import find_store, keep_step_traces
from diffkd_jax.train import build as build_module
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from tests.helpers.configs import load_config


def small_config(**fields):
    config = load_config("quickstart", "smoke")
    with config.unlocked():
        config.num_devices = 1
        config.data.batch_size, config.data.limit = 8, 32
        config.methods.diffkd.num_steps = 1
        config.train.distill_every = 2
        config.train.ema_decay = 0.5
        for side in ("teacher", "student"):
            config[side].model = "resnet8"
            config[side].options = {"channels": (4, 4, 4, 8)}
        config.update_from_flattened_dict(fields)
    return config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_traces, "traces_folder", lambda: tmp_path)
    return tmp_path


def trained(run, seed=1):
    """The bits after two steps, one of them not distilled, and the first state."""
    params, carried = run.teacher.init(jax.random.key(seed), run.shapes.batch)
    teacher = {"params": params, **carried}
    state, metrics = run.init(), []
    first = state
    for batch, distill in zip(training_batches(run), (True, False), strict=False):
        del batch["skipped"]
        state, values = run.step(state, teacher, batch, distill)
        metrics.append(values)
    assert int(state.step) == 2
    leaves = jax.tree.leaves((state, metrics))
    return [np.asarray(x).tobytes() for x in leaves], metrics, first


def refuse(*args, **kwargs):
    raise AssertionError("traced")


@pytest.mark.slow
def test_a_step_from_a_file_gives_the_bits_of_the_traced_one(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stored_traces, "traces_folder", lambda: None)
        bits, metrics, _ = trained(build(small_config()))
    assert not list(folder.iterdir())
    written, _, _ = trained(build(small_config()))
    files = sorted(folder.iterdir())
    assert len(files) == 3  # the initialisation and two kinds of step
    assert {file.suffix for file in files} == {""}
    monkeypatch.setattr(build_module, "diffkd_step", refuse)
    read, read_metrics, first = trained(build(small_config(seed=0)))
    assert bits == written == read
    assert [x.keys() for x in metrics] == [x.keys() for x in read_metrics]
    assert first.params["student"]["head"]["kernel"].is_deleted()  # donated


def test_a_damaged_file_is_traced_again(folder, caplog):
    bits, _, _ = trained(build(small_config()))
    contents = {file: file.read_bytes() for file in folder.iterdir()}
    for i, (file, content) in enumerate(contents.items()):
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        damaged = content[:middle] + flipped + content[middle + 1 :]
        file.write_bytes((damaged, content[:-9], b"")[i])
    with caplog.at_level("DEBUG", "diffkd_jax"):
        assert trained(build(small_config()))[0] == bits
    assert caplog.text.count("is damaged") == 3
    assert {file: file.read_bytes() for file in folder.iterdir()} == contents


def store_of(**fields):
    run = build(small_config(**fields))
    plan = run.plan
    scoring = build_module.Scoring(
        run.config, run.data, run.task, run.devices, run.evaluate
    )
    return build_module._find_store(scoring, plan)


def test_each_config_and_each_byte_of_the_source_has_its_own_path(
    folder, tmp_path_factory, monkeypatch
):
    path = store_of()
    assert path.parent == folder
    assert store_of(seed=3, name="another") == path
    for fields in (
        {"optimizer.learning_rate": 0.2},
        {"train.max_skipped": 1},
        {"data.limit": 24},
        {"student.options": {"channels": (4, 4, 4, 12)}},
    ):
        assert store_of(**fields) != path
    package = tmp_path_factory.mktemp("package")
    monkeypatch.setattr(stored_traces, "PACKAGE", package)
    paths = set()
    for source in (b"x = 1\n", b"x = 2\n"):
        (package / "code.py").write_bytes(source)
        paths.add(find_store({}))
    monkeypatch.setattr(jax, "device_count", lambda: 1)  # a convolution depends on it
    paths.add(find_store({}))
    monkeypatch.setattr(jax, "__version__", "0.0.1")
    paths.add(find_store({}))
    monkeypatch.setattr(stored_traces, "has_onednn", lambda: "another")
    paths.add(find_store({}))
    assert len(paths) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"student.model": "tests.helpers.own_model:make", "student.options": {}},
        {"num_devices": 2},
        {"weights": {"task": lambda step: 1.0}},
    ],
    ids=["import path", "two devices", "schedule"],
)
def test_nothing_is_kept_of_code_that_may_change_or_of_several_devices(folder, fields):
    assert store_of(**fields) is None


@pytest.mark.parametrize("name", stored_traces.DEBUG_SETTINGS)
def test_nothing_is_kept_while_debugging(folder, name):
    assert find_store({}) is not None
    before = getattr(jax.config, name)
    jax.config.update(name, True)
    try:
        assert find_store({}) is None
    finally:
        jax.config.update(name, before)


def test_an_error_of_a_step_stays_what_it_is(folder):
    def step(state, teacher, batch, *, distill):
        raise ValueError("weights: found 'x'")

    stored = keep_step_traces(step, folder / "key")
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is below
        jax.jit(lambda x: stored(x, {}, {}, distill=True))(np.ones(2))
    assert str(caught.value) == "weights: found 'x'"
    assert not list(folder.iterdir())


def test_a_step_that_no_file_can_hold_is_traced(folder):
    def step(state, teacher, batch, *, distill):
        jax.debug.callback(lambda x: None, state)
        return state + 1, {}

    stored = keep_step_traces(step, folder / "key")
    result, _ = jax.jit(lambda x: stored(x, {}, {}, distill=True))(np.ones(2))
    assert result.tolist() == [2.0, 2.0]
    assert not list(folder.iterdir())


def test_what_a_killed_process_leaves_counts_as_a_program(folder, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    monkeypatch.setattr(stored_traces.os, "replace", kill)
    stored = keep_step_traces(lambda s, t, b, distill: (s + 1, {}), folder / "key")
    with pytest.raises(Killed):
        jax.jit(lambda x: stored(x, {}, {}, distill=True))(np.ones(2))
    assert len(list(folder.glob("*-cache"))) == 1


def test_a_folder_that_cannot_be_written_costs_only_time(folder, monkeypatch, caplog):
    def refuse_file(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stored_traces.os, "replace", refuse_file)
    stored = keep_step_traces(lambda s, t, b, distill: (s + 1, {}), folder / "key")
    with caplog.at_level("DEBUG", "diffkd_jax"):
        result, _ = jax.jit(lambda x: stored(x, {}, {}, distill=True))(np.ones(2))
    assert result.tolist() == [2.0, 2.0]
    assert "Permission denied" in caplog.text
    assert not list(folder.iterdir())
