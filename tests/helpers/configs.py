"""Configs and commands of runs that are small enough for tests."""

import importlib.util
import pathlib
import sys

from absl import flags

from diffkd_jax import main
from diffkd_jax.config.command_line import define_flags

ROOT = pathlib.Path(__file__).parents[2]


def load_config(name, argument=""):
    """The config that ``--config=configs/<name>.py:<argument>`` would give."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"configs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return (module.get_config(argument) if argument else module.get_config()).lock()


def tiny_command(workdir, fields, config="tests/helpers/tiny.py"):
    """The command that trains the tiny run with other fields."""
    command = [sys.executable, "-m", "diffkd_jax.main", f"--workdir={workdir}"]
    command += [f"--config={ROOT / config}"]
    return command + [f"--config.{name}={value}" for name, value in fields.items()]


def tiny_config(**fields):
    """64 images, 8 steps, an evaluation and a checkpoint every 4, two tiny networks."""
    config = load_config("quickstart", "smoke")
    with config.unlocked():
        config.name = "tiny"
        config.num_devices = 1
        config.train.max_steps, config.train.epochs = 0, 2.0
        for side, width in (("teacher", 6), ("student", 4)):
            config[side].model = "tests.helpers.own_model:make"
            config[side].options = {"width": width}
        config.methods.diffkd.num_steps = 1
    config.update_from_flattened_dict(fields)
    return config


RESNET = {"teacher.model": "resnet8", "teacher.options": {"channels": (4, 4, 4, 12)}}


def resnet_config(**fields):
    """The tiny run with the teacher of the fixture ``resnet``."""
    config = tiny_config()
    with config.unlocked():
        config.teacher.options = {}
        config.update_from_flattened_dict(RESNET | fields)
    return config


def set_flags(monkeypatch, config):
    """Gives ``main.main`` the flags of a command with this config."""
    values = flags.FlagValues()
    define_flags(values)
    values.config = config
    flags.DEFINE_integer("verbosity", -1, "", flag_values=values)
    values(["main", "--compilation_cache="])
    monkeypatch.setattr(main, "FLAGS", values)
    monkeypatch.setattr(main, "_silence_orbax", lambda: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
