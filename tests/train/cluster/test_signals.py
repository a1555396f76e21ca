"""A run that is asked to stop saves its state, and a later call resumes it."""

import errno
import itertools
import os
import signal
import subprocess
import time

import chex
import jax
import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data.pipeline import read_ahead
from diffkd_jax.data.pipeline.workers import TO_END
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster.signals import (
    Stalled,
    Stopped,
    catch_signals,
    never,
    stop_if_requested,
)
from diffkd_jax.train.commands import train as runs
from diffkd_jax.train.fit import fit
from diffkd_jax.train.outputs.metrics import read_rows
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints
from tests.helpers import own_code
from tests.helpers.configs import ROOT, tiny_command, tiny_config

RATES = {"images_per_second"}


def from_call(number):
    """Returns a ``should_stop`` that requests a stop from this call on."""
    questions = itertools.count(1)
    return lambda: next(questions) >= number


def rows_of(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in RATES} for row in rows]


def kd_config(finished, **fields):
    """A run of eight steps: a log every three, evaluations every two and every four."""
    teacher = str(finished / "teacher")
    defaults = {"method": "kd", "teacher.init": teacher, "log_every_steps": 3}
    run_config = tiny_config(**defaults | fields)
    with run_config.unlocked():
        run_config.evaluations = {"agreement": {"every_epochs": 0.5}}
        run_config.data.eval_batch_size = 16
    return run_config


@pytest.fixture(scope="module")
def built(finished):
    run_config = kd_config(finished)
    run = build(run_config)
    return run._replace(
        teacher=runs.get_teacher(resolve(run_config), run.teacher, finished)
    )


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return fit(built, workdir), rows_of(workdir)


@pytest.mark.parametrize("number", [2, 5])
def test_a_run_stopped_many_times_ends_like_an_uninterrupted_one(
    built, whole, number, tmp_path
):
    """It stops after steps, and between the batches of either evaluation."""
    steps = []
    while True:
        try:
            # Later each time, for an evaluation begins anew.
            later = from_call(number + len(steps))
            fitted = fit(built, tmp_path, should_stop=later)
            break
        except Stopped as stopped:
            steps.append(int(str(stopped).split("at step ")[1].split()[0]))
    assert 2 < len(steps) < 40
    assert steps == sorted(steps)
    expected, rows = whole
    chex.assert_trees_all_equal(fitted.state, expected.state)
    chex.assert_trees_all_equal(fitted.evidence, expected.evidence)
    assert fitted.history == expected.history
    assert rows_of(tmp_path) == rows


def test_a_stop_before_the_first_step_trains_nothing(built, tmp_path):
    with pytest.raises(Stopped, match="stopped at step 0 of 8"):
        fit(built, tmp_path, should_stop=lambda: True)
    assert rows_of(tmp_path) == []


def test_checkpoints_saved_by_the_clock_are_kept_by_the_usual_rule(
    built, whole, tmp_path
):
    """The newest two and the best stay."""
    run = built._replace(plan=built.plan._replace(save_every=1e-9))
    saved = []
    note = lambda event, step: saved.append(step) if event == "save" else None
    fitted = fit(run, tmp_path, events=note)
    assert saved == [3, 4, 6, 8]
    chex.assert_trees_all_equal(fitted.state, whole[0].state)
    history = dict(zip((4, 8), fitted.history, strict=True))
    best = max((4, 8), key=lambda at: (history[at]["top1"], at))
    with open_checkpoints(tmp_path, run.task) as checkpoints:
        assert set(checkpoints.all_steps()) == {6, 8, best}


def test_signals_are_caught_and_their_handlers_restored():
    before = {n: signal.getsignal(n) for n in TO_END}
    assert len(before) >= 6
    for number in TO_END:
        with catch_signals(itertools.count(step=2.0).__next__) as should_stop:
            assert not should_stop()
            os.kill(os.getpid(), number)
            assert should_stop() == number
            os.kill(os.getpid(), signal.SIGTERM)
            assert should_stop() == number
            with pytest.raises(Stopped) as stopped:
                stop_if_requested(should_stop)
            assert stopped.value.exit_code == 128 + number
            if number != signal.SIGINT:  # the first one, which asks to save too
                os.kill(os.getpid(), signal.SIGINT)
                assert should_stop() == number
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    assert {n: signal.getsignal(n) for n in TO_END} == before
    assert not never()


def test_two_interrupts_within_a_second_count_as_one():
    """A wrapper may forward a Ctrl-C that the whole process group got already."""
    times = iter([5.0, 5.003, 5.9, 6.1])
    with catch_signals(lambda: next(times)) as should_stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            assert should_stop() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored():
    """A job in the background ignores Ctrl-C, which is meant for another job."""
    before = {n: signal.signal(n, signal.SIG_IGN) for n in TO_END - {signal.SIGTERM}}
    try:
        with catch_signals() as should_stop:
            for number in before:
                os.kill(os.getpid(), number)
            assert not should_stop()
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)  # neither the second nor the first
            assert should_stop() == signal.SIGTERM
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("code", [errno.EPIPE, errno.EIO, errno.EBADF, errno.ENOSPC])
def test_a_stop_is_noted_even_if_stderr_fails(code, monkeypatch):
    def write(descriptor, text):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", write)
    with catch_signals() as should_stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert should_stop()


SLOW = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU]


@pytest.mark.parametrize(
    "number",
    [signal.SIGUSR1, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)],
)
def test_a_command_saves_on_a_signal_and_exits_with_its_number(
    number, tmp_path, finished
):
    fields = {"method": "none", "train.epochs": 500.0, "data.num_workers": 1}
    # The workers get the signal too, and must outlive it.
    started = subprocess.Popen(
        tiny_command(tmp_path, fields),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for line in started.stdout:
        if "step 10/" in line:
            break
    os.killpg(started.pid, number)  # as a shell or a scheduler does
    out, err = started.communicate(timeout=60)
    assert started.returncode == 128 + number, err
    assert "Traceback" not in err
    last = out.splitlines()[-1]
    assert "stopped at step " in last
    step = int(last.split("stopped at step ")[1].split()[0])
    run = build(tiny_config(**fields))
    with open_checkpoints(tmp_path, run.task) as checkpoints:
        assert checkpoints.latest_step() == step


def test_a_call_from_python_catches_no_signals(tmp_path, monkeypatch):
    """Only the command line does."""
    monkeypatch.setattr(signal, "signal", None)
    main.run(tiny_config(method="none", dry_run=True), str(tmp_path))


def test_a_run_resumes_on_another_mesh_with_nearly_the_same_result(
    built, whole, finished, tmp_path
):
    """Sums over other devices are rounded differently.

    Here the devices share one state as well.
    """
    with pytest.raises(Stopped, match="stopped at step 3 of 8"):
        fit(built, tmp_path, should_stop=from_call(8))
    mesh = {"mesh.fsdp": 2, "mesh.fsdp_min_bytes": 64}
    eight = build(kd_config(finished, num_devices=8, **mesh))
    fitted = fit(eight._replace(teacher=built.teacher), tmp_path)
    assert not all(x.is_fully_replicated for x in jax.tree.leaves(fitted.state))
    chex.assert_trees_all_close(
        fitted.state.params, whole[0].state.params, rtol=1e-4, atol=1e-5
    )
    rows = zip(rows_of(tmp_path), whole[1], strict=True)
    for actual, expected in rows:
        assert actual.keys() == expected.keys()
        assert actual["step"] == expected["step"]


HANGING = {
    "method": "none",
    "log_every_steps": 1,
    "data.name": "tests.helpers.own_code:hanging",
    "data.limit": 0,
    "data.num_classes": 0,
    "data.num_threads": 1,
}


def test_a_decoder_that_hangs_delays_neither_a_stop_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(read_ahead, "LOOK_EVERY", 0.3)
    config = tiny_config(**HANGING, **{"data.stalled_seconds": 1})
    try:
        with pytest.raises(Stalled, match=r"data\.stalled_seconds: found no batch in"):
            main.run(config, str(tmp_path / "a"))
        with open_checkpoints(tmp_path / "a", build(config).task) as checkpoints:
            done = checkpoints.latest_step()
        assert done == read_rows(tmp_path / "a/metrics.jsonl")[-1]["step"] > 0
        log = tmp_path / "b/metrics.jsonl"

        def should_stop():
            late = log.exists() and time.time() - log.stat().st_mtime > 0.25
            return late and read_rows(log)[-1]["step"] == done

        with pytest.raises(Stopped, match=f"stopped at step {done} of 8, saved"):
            runs.train(config, tmp_path / "b", should_stop)
        assert read_ahead.is_stuck()
    finally:
        own_code.STUCK.set()


@pytest.mark.slow
def test_a_command_whose_decoder_hangs_ends(tmp_path):
    """Its threads would never end. The same holds with workers."""
    for workers in (0, 1):
        fields = HANGING | {"data.stalled_seconds": 6, "data.num_workers": workers}
        done = subprocess.run(
            tiny_command(tmp_path / str(workers), fields),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: data.stalled_seconds: found no batch")
