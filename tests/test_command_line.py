"""The command line as a user meets it: exit codes and one-screen errors."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "diffkd_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/quickstart.py", "--config.optimizer.learning_rat=1"],
            "learning_rat",
        ),
        (["--config=configs/nowhere.py"], "configs/nowhere.py"),
        (["--config=configs/quickstart.py:fast"], "found 'fast'"),
        (["--config=configs/cifar100.py"], "data.path: found nothing at ''"),
        (["--config=configs/cifar10.py:wrn"], "expected <teacher>-<student>"),
        (["--config=configs/quickstart.py", "train"], "found ['train']"),
    ],
)
def test_bad_commands_end_with_one_screen(arguments, message, tmp_path):
    done = command(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode != 0
    assert message in done.stderr
    assert len(done.stderr.splitlines()) < 30
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_on_a_clean_screen():
    done = command("--config=configs/quickstart.py", "--config.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pictures   8,000 to train, 2,000 to evaluate")
    assert "resnet8: 6,386 parameters" in done.stdout
