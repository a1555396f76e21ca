"""Every config runs two steps, on embedded pictures."""

import json

import pytest

from diffkd_jax import main
from tests.train.conftest import ROOT, load_config

NAMES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "common")


def test_there_are_configs():
    assert {"quickstart", "cifar10", "cifar100", "imagenet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_smoke(name, tmp_path):
    config = load_config(name, "smoke")
    config.num_devices = 1
    for tap in config.methods[config.method].taps.values():
        tap.denoise.num_steps = 1  # compiles faster
    main.run(config, str(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["method"].startswith("diffkd")


@pytest.mark.parametrize("name", NAMES)
def test_the_dry_run_of_the_real_recipe(name, capsys):
    """The recipe as it is, but for the data set, which may not be here."""
    config = load_config(name)
    config.dry_run = True
    config.data.name, config.data.path = "fashion_mnist_embedded", ""
    config.data.eval_split, config.data.num_classes = "test", 0
    config.data.mean, config.data.std = (0.5,), (0.5,)
    main.run(config)
    out = capsys.readouterr().out
    assert "features/" not in out
    assert "diffusion x 1" in out
    assert ("autoencoder x 1" in out) == (name in ("imagenet", "real_teacher"))


@pytest.mark.parametrize("method", list(load_config("quickstart").methods))
def test_every_method_has_losses_for_its_weights(method, capsys):
    config = load_config("quickstart")
    config.method, config.dry_run = method, True
    main.run(config)
    shown = capsys.readouterr().out
    for name in config.methods[method].weights:
        assert name == "task" or f"{name.split('/')[1]} x " in shown


def test_recipe_a1():
    config = load_config("cifar100", "resnet32x4-resnet8x4")
    assert (config.teacher.model, config.student.model) == ("resnet32x4", "resnet8x4")
    assert (config.train.epochs, config.data.batch_size) == (240, 64)
    assert config.schedule.boundaries == (150, 180, 210)
    assert config.optimizer.learning_rate == 0.05
    assert config.optimizer.weight_decay == 5e-4
    assert not config.optimizer.nesterov


def test_recipe_b1():
    config = load_config("imagenet")
    assert (config.teacher.model, config.student.model) == ("resnet34", "resnet18")
    assert (config.train.epochs, config.data.batch_size) == (100, 256)
    assert config.schedule.boundaries == (30, 60, 90)
    assert config.optimizer.learning_rate == 0.1
    assert config.optimizer.nesterov
    assert not config.optimizer.decay_norms_and_biases
    latent = config.methods.diffkd.taps.features.denoise.latent_channels
    assert latent == 1024
