"""Fixtures of runs that are small enough for tests."""

import pytest
from filelock import FileLock
from PIL import Image

from tests.helpers.configs import RESNET, tiny_config


def blank(figure, path):
    """Stands in for rendering, which takes longer than such a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", figure.canvas.get_width_height()).save(path)
    return path


@pytest.fixture(autouse=True)
def quickly_drawn(request, monkeypatch):
    """Plots are not rendered, except in ``finished`` and in the report's tests."""
    from diffkd_jax.io import drawing
    from diffkd_jax.train.outputs import plots

    if request.module.__name__ != "tests.train.outputs.test_report":
        for module in (drawing, plots):
            monkeypatch.setattr(module, "save_figure", blank)


@pytest.fixture(autouse=True)
def steps_of_equal_time(monkeypatch):
    """Steps of a comparison are not timed, which takes longer than such a run."""
    from diffkd_jax.train.commands import compare, step_times

    same = lambda run, reference, should_stop: step_times.StepTime(0.5, 0.5)
    monkeypatch.setattr(compare, "measure_step", same)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """Workdir of a finished DiffKD run, with its teacher inside; to be read only."""
    from diffkd_jax import main  # defines flags: not where a config file imports this

    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "finished"
    # The first of the workers trains it for all.
    with FileLock(f"{folder}.lock"):
        if not (folder / "run/summary.json").exists():
            main.run(tiny_config(), str(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """Workdir with the export of a ResNet of drawn weights, as ``RESNET`` names it."""
    from diffkd_jax.weights.files import export_model
    from diffkd_jax.weights.output_files import MODEL_FILE
    from diffkd_jax.weights.untrained import build_untrained
    from tests.helpers.variables import random_variables

    model = build_untrained(
        "resnet8", RESNET["teacher.options"], {"num_classes": 10}, (28, 28, 1)
    )
    variables = random_variables(model.module, (28, 28, 1))
    workdir = tmp_path_factory.mktemp("resnet")
    export_model(workdir / MODEL_FILE, model._replace(variables=variables))
    return workdir
