"""A run copes with its user's closed streams, plot settings, signals and locks."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands import train as runs
from diffkd_jax.train.commands.use_student import use_student
from diffkd_jax.train.outputs import report, results
from diffkd_jax.train.workdir import directory, lock
from tests.helpers.configs import ROOT, tiny_command, tiny_config

# Two classes have letters of no font here, or of Noto CJK; one has an accent.
TWO_STEPS = {
    "method": "none",
    "name": "café",
    "train.max_steps": 2,
    "data.name": "tests.helpers.own_code:named_in_three_scripts",
    "data.num_classes": 0,
    "data.limit": 0,
    "data.augment": "none",
}
OWN_DRAW = {"task.name": "tests.helpers.own_code:classification_that_draws"}


def in_shell(shell, command, **environment):
    """Runs a command as ``sh`` starts it, such as ``exec "$@" >&-``."""
    return subprocess.run(
        ["/bin/sh", "-c", shell, "sh", *command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def check_finished(folder):
    """Checks that summary, export and report are complete; returns the report."""
    json.loads((folder / "summary.json").read_text())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "model.safetensors").stat().st_size
    assert page.endswith("</html>\n")
    return page


@pytest.mark.parametrize(
    "shell",
    [
        'exec "$@" >&- 2>/dev/full <&-',
        'exec "$@" >/dev/full 2>&-',
        pytest.param('exec "$@" >&- 2>&-', marks=pytest.mark.slow),
        pytest.param('"$@" 2>&1 | head -1; exit 0', marks=pytest.mark.slow),
    ],
)
def test_a_run_is_finished_although_its_streams_are_closed_or_full(shell, tmp_path):
    done = in_shell(shell, tiny_command(tmp_path, TWO_STEPS), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    check_finished(tmp_path)
    assert "Traceback" not in done.stdout + done.stderr


def test_plot_settings_and_a_failing_draw_cost_at_most_one_figure(tmp_path):
    """Plot settings, names in letters that no font has, and a ``draw`` with a bug."""
    settings = tmp_path / "settings"
    settings.write_text(
        "text.usetex: True\nfigure.constrained_layout.use: True\nsavefig.dpi: 3\n"
    )
    command = tiny_command(tmp_path / "run", TWO_STEPS | OWN_DRAW)
    done = in_shell(
        'exec "$@"',
        command,
        MATPLOTLIBRC=str(settings),
        MPLBACKEND="backend_of_another_environment",
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    page = check_finished(tmp_path / "run")
    assert page.count("data:image/png") == 2  # score and losses, large ones
    assert (tmp_path / "run/plots/score.png").stat().st_size > 5000
    note = "draw of the task: left out after ZeroDivisionError: division by zero"
    assert note in page
    assert [line for line in done.stderr.splitlines() if note in line]
    assert "Traceback" not in done.stderr
    assert "Glyph" not in done.stderr
    assert r"caf\xe9 none  step" in done.stdout


def started(folder, **streams):
    fields = TWO_STEPS | {"train.max_steps": 0, "train.epochs": 5000.0}
    fields |= {"log_every_steps": 5, "eval_every_epochs": 1000.0}
    return subprocess.Popen(tiny_command(folder, fields), cwd=ROOT, **streams)


def wait_for_rows(process, folder, rows):
    file = folder / "metrics.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < rows:
        assert process.poll() is None
        time.sleep(0.05)


def test_ctrl_c_saves_although_both_streams_are_closed(tmp_path):
    """Ctrl-C ends the ``tee`` of ``2>&1 | tee`` too."""
    reading, writing = os.pipe()
    process = started(tmp_path, stdout=writing, stderr=writing)
    try:
        os.close(writing)
        with contextlib.closing(open(reading, "rb", closefd=True)) as pipe:
            pipe.readline()
        wait_for_rows(process, tmp_path, 2)  # it goes on, and then
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]


def test_a_run_under_nohup_ignores_sighup_and_saves_on_another_signal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        process = started(tmp_path, **quiet)
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        wait_for_rows(process, tmp_path, 1)
        process.send_signal(signal.SIGHUP)
        wait_for_rows(process, tmp_path, 4)
        process.send_signal(signal.SIGUSR2)
        assert process.wait(60) == 128 + signal.SIGUSR2
    finally:
        process.kill()
    assert [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]


HOLDER = """
import os, pathlib, sys
from diffkd_jax.train.workdir import lock
from tests.train.cluster import test_surroundings
test_surroundings.fcntl.flock = test_surroundings.without_locks
held = lock.lock_workdir(pathlib.Path(sys.argv[1]))
held.__enter__()
print("held", flush=True)
sys.stdin.read()
os._exit(0)
"""


def without_locks(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_file_serves_as_lock_on_a_file_system_without_locks(
    code, tmp_path, monkeypatch, caplog
):
    def refuse(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level("INFO", "diffkd_jax"), lock.lock_workdir(tmp_path):
        assert (tmp_path / lock.SOFT_LOCK).exists()
    assert "has no locks" in caplog.text
    with lock.lock_workdir(tmp_path):
        pass


def test_a_file_as_lock_keeps_others_out_until_its_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", without_locks)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    message = r"in use by another run.*; if none runs, on any host, remove its lock\.so"
    with pytest.raises(OSError, match=message), lock.lock_workdir(tmp_path):
        pass
    process.communicate("")
    assert (tmp_path / lock.SOFT_LOCK).exists()  # nobody took it away
    with lock.lock_workdir(tmp_path):
        pass


def test_a_run_that_died_while_it_drew_makes_its_report_again(
    tmp_path, monkeypatch, caplog
):
    """Summary and export were written before, so nothing is trained again."""
    config = tiny_config(**{"method": "none", "train.max_steps": 2})

    def dies(*given, **options):
        assert (tmp_path / directory.SUMMARY).exists()
        assert (tmp_path / "model.safetensors").exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_run", dies)
        with pytest.raises(KeyboardInterrupt):
            runs.train(config, tmp_path)
    assert not (tmp_path / directory.REPORT).exists()
    with pytest.raises(Stopped) as stopped:
        runs.train(config, tmp_path, lambda: signal.SIGHUP)
    assert stopped.value.exit_code == 129
    first = json.loads((tmp_path / directory.SUMMARY).read_text())
    result = runs.train(config, tmp_path)
    assert "made again" in caplog.text
    assert result["final_top1"] == first["final_top1"]
    check_finished(tmp_path)


def test_a_run_is_finished_although_computing_figures_fails(tmp_path, monkeypatch):
    config = tiny_config(**{"method": "none", "train.max_steps": 2})

    def fails(*given):
        raise MemoryError("of 256 images at once")

    monkeypatch.setattr(results, "trace_denoising", fails)
    monkeypatch.setattr(results, "predict_examples", fails)
    assert runs.train(config, tmp_path)["steps"] == 2
    page = check_finished(tmp_path)
    assert "denoising: left out after MemoryError: of 256 images at once" in page
    assert "examples: left out after MemoryError" in page


@pytest.mark.parametrize("mode", ["evaluate", "predict"])
def test_a_stop_of_evaluate_and_predict_has_the_exit_code_of_its_signal(mode, finished):
    config = tiny_config(mode=mode)
    with pytest.raises(Stopped) as stopped:
        use_student(config, finished, lambda: signal.SIGUSR1)
    assert stopped.value.exit_code == 128 + signal.SIGUSR1
    assert not (finished / "predictions").exists()
