"""A run small enough for tests."""

import importlib.util
import pathlib
import sys

import pytest
from filelock import FileLock
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]


def load_config(name, argument=""):
    """The config that ``--config=configs/<name>.py:<argument>`` would give."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return (module.get_config(argument) if argument else module.get_config()).lock()


def tiny_command(workdir, fields, config="tests/train/tiny.py"):
    """What starts a process that trains the tiny run with other fields."""
    command = [sys.executable, "-m", "diffkd_jax.main", f"--workdir={workdir}"]
    command += [f"--config={ROOT / config}"]
    return command + [f"--config.{name}={value}" for name, value in fields.items()]


def tiny_config(**fields):
    """64 pictures, 8 steps, an evaluation and a checkpoint every 4, two tiny nets."""
    config = load_config("quickstart", "smoke")
    with config.unlocked():
        config.name = "tiny"
        config.num_devices = 1
        config.train.max_steps, config.train.epochs = 0, 2.0
        for side, width in (("teacher", 6), ("student", 4)):
            config[side].model = "tests.train.own_model:make"
            config[side].options = {"width": width}
        config.methods.diffkd.num_steps = 1
    config.update_from_flattened_dict(fields)
    return config


def blank(figure, path):
    """In place of rendering, which takes longer than such a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", figure.canvas.get_width_height()).save(path)
    return path


@pytest.fixture(autouse=True)
def quickly_drawn(request, monkeypatch):
    """Plots are made and not rendered, but for ``finished`` and the report's tests."""
    from diffkd_jax.io import drawing
    from diffkd_jax.train.outputs import plots

    if request.module.__name__ != "tests.train.outputs.test_report":
        for module in (drawing, plots):
            monkeypatch.setattr(module, "save", blank)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """Workdir of a finished DiffKD run, with its teacher inside; to be read only."""
    from diffkd_jax import main  # defines flags: not where a config file imports this

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "finished"
    # Of the workers the first one trains it for all.
    with FileLock(f"{folder}.lock"):
        if not (folder / "run/summary.json").exists():
            main.run(tiny_config(), str(folder / "run"))
    return folder / "run"


RESNET = {"teacher.model": "resnet8", "teacher.options": {"channels": (4, 4, 4, 12)}}


def resnet_config(**fields):
    """With the teacher of the fixture ``resnet``."""
    config = tiny_config()
    with config.unlocked():
        config.teacher.options = {}
        config.update_from_flattened_dict(RESNET | fields)
    return config


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """Workdir with the export of a ResNet of drawn weights, as ``RESNET`` names it."""
    from diffkd_jax.weights.files import MODEL_FILE, describe, export_model
    from tests.models.test_fold import random_variables

    model = describe(
        "resnet8", RESNET["teacher.options"], {"num_classes": 10}, (28, 28, 1)
    )
    variables = random_variables(model.module, (28, 28, 1))
    workdir = tmp_path_factory.mktemp("resnet")
    export_model(workdir / MODEL_FILE, model._replace(variables=variables))
    return workdir
