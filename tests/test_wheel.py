"""The wheel, installed by itself, runs recipes from any directory."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("diffkd_jax", "configs", "pyproject.toml", "README.md", "LICENSE")
RECIPE = """
from diffkd_jax.config import base, shrink

def get_config(argument=""):
    config = base()
    config.name, config.method = "mine", "none"
    config.student.model = "resnet8"
    config.student.options = {"channels": (2, 2, 2, 4)}
    config.train.epochs, config.schedule.name = 1.0, "constant"
    return shrink(config)
"""


def command(*arguments, **options):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory that holds the package as its wheel has it, and nothing else."""
    source, target = (
        tmp_path_factory.mktemp("source"),
        tmp_path_factory.mktemp("target"),
    )
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source / name)
    pip = ("pip", "--quiet", "--disable-pip-version-check")
    build = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(source / "wheel"))
    command(*pip, "wheel", *build, str(source))
    (wheel,) = (source / "wheel").glob("*.whl")
    command(*pip, "install", "--no-deps", "--target", str(target), str(wheel))
    return target


def test_recipes_run_from_an_empty_directory(installed, tmp_path):
    """A packaged recipe by its name, one of the user's own by its path."""
    recipe, empty = tmp_path / "own.py", tmp_path / "empty"
    recipe.write_text(RECIPE)
    empty.mkdir()
    options = {"cwd": empty, "env": os.environ | {"PYTHONPATH": str(installed)}}
    listing = command("pip", "show", "--files", "diffkd_jax", **options)
    assert str(installed) in listing
    flags = ["--config.method=none", "--config.student.options.channels=(2,2,2,4)"]
    command("diffkd_jax.main", "--config=quickstart:smoke", *flags, **options)
    command("diffkd_jax.main", f"--config={recipe}", **options)
    for name in ("quickstart-smoke", "mine-smoke"):
        summary = json.loads((empty / "runs" / name / "summary.json").read_text())
        assert summary["steps"] == 2
    assert [path.name for path in empty.iterdir()] == ["runs"]


def test_the_script_is_the_command_line(installed, tmp_path):
    """Its help, its errors and its exit codes are those of ``-m diffkd_jax.main``."""
    script = installed / "bin/diffkd-jax"
    module = [sys.executable, "-m", "diffkd_jax.main"]
    for flags in (["--help"], ["--config=nowhere.py"], ["--config=quickstart", "x"]):
        ends = [
            subprocess.run(
                [*start, *flags],
                cwd=tmp_path,
                env=os.environ | {"PYTHONPATH": str(installed)},
                capture_output=True,
                text=True,
                check=False,
            )
            for start in ([sys.executable, str(script)], module)
        ]
        lines = [
            [line for line in end.stdout.splitlines() if not line.endswith(":")]
            for end in ends
        ]  # without the path of the program, which heads the flags
        assert lines[0] == lines[1]
        assert ends[0].stderr == ends[1].stderr
        assert ends[0].returncode == ends[1].returncode == 1
    assert not list(tmp_path.iterdir())


def test_the_wheel_says_that_it_has_types(installed):
    assert (installed / "diffkd_jax/py.typed").is_file()


def test_the_wheel_has_every_folder_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"]) - {"diffkd_jax.configs"}
    files = (ROOT / "diffkd_jax").rglob("*.py")
    packages = {".".join(file.parent.relative_to(ROOT).parts) for file in files}
    assert listed == packages
