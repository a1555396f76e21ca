"""The command line as a user meets it: exit codes and one-screen errors."""

import contextlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from diffkd_jax import main
from diffkd_jax.config.command_line import define_flags
from diffkd_jax.config.resolve import resolve
from diffkd_jax.config.sections import FIELDS
from diffkd_jax.data.sources.registry import DATASETS
from diffkd_jax.io import console, streams
from diffkd_jax.methods import METHODS
from diffkd_jax.models import MODELS
from diffkd_jax.tasks import TASKS
from tests.helpers.configs import set_flags, tiny_config

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run(
        [sys.executable, "-m", "diffkd_jax.main", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )


BAD = [
    ([], "--config: found none, expected one of ['cifar10', 'cifar100', 'cityscapes',"),
    (
        ["--config=quickstart", "--config.optimizer.learning_rat=1"],
        "error: optimizer.learning_rat: found '1', expected no such field; nearest: "
        "optimizer.learning_rate",
    ),
    (["--config=configs/nowhere.py"], "configs/nowhere.py"),
    (["--config=quickstart:fast"], "quickstart: found 'fast', expected one of"),
    (["--config=imagenet:r9-r9"], "imagenet: found 'r9-r9', expected one of"),
    (["--config=configs/cifar10.py:wrn"], "expected <teacher>-<student>"),
    (["--config=quickstart", "train"], "found ['train']"),
    (["--config=quickstart", "--config.seed=x"], "error: seed: found 'x', expected an"),
    (["--config=quickstart", "--config.seed", "x"], "error: seed: found 'x', expected"),
    (
        ["--config=quickstart", "--config.teacher.min_score=high"],
        "error: teacher.min_score: found 'high', expected a number",
    ),
    (
        ["--config=quickstart", "--wrkdir=x"],
        "error: --wrkdir: found an unknown flag, expected --workdir",
    ),
    (
        ["--config=quickstart", "--method=kd"],
        "error: --method: found an unknown flag, expected --config.method",
    ),
    (
        ["--config=quickstart", "--data.path=x"],
        "error: --data.path: found an unknown flag, expected --config.data.path\n",
    ),
    (["--config=nope"], "error: --config: found nothing at"),
    (
        ["--config.seed=1", "--config=quickstart"],
        "error: --config: found --config.seed=1 before it, expected --config first",
    ),
    (
        ["--config=quickstart", "--config=cifar10", "--config.seed=1"],
        "error: --config: found more than one, expected one",
    ),
    (
        ["--config=quickstart", "--config.evaluations.agreement"],
        "expected a field that --helpfull lists",
    ),
    (["--config=quickstart", "--config.student.options.width"], "found no value"),
    (
        ["--config=quickstart", "--config.teacher.min_top1=0.7"],
        "--config.teacher.min_top1: found a field of an earlier version, expected "
        "--config.teacher.min_score",
    ),
]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_commands_end_with_one_line(arguments, message, monkeypatch, capsys):
    values = flags.FlagValues()
    define_flags(values)
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main.parse_flags(["main", *arguments], values)
    assert end.value.code == 1
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("error: ")
    assert len(shown.splitlines()) == 1


def test_all_wrong_flags_are_named_at_once(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parsed(
            monkeypatch,
            "--config=quickstart",
            "--config.train.batch_size=3",
            "--config.data.flip=maybe",
            "--config.mix.mixup=much",
        )
    assert capsys.readouterr().err.splitlines() == [
        "error: train.batch_size: found '3', expected no such field; nearest: "
        "data.batch_size, teacher.data.batch_size",
        "data.flip: found 'maybe', expected True or False",
        "mix.mixup: found 'much', expected a number at least 0 and at most 1000",
    ]


def test_flags_of_every_kind_set_their_fields(monkeypatch):
    config = parsed(
        monkeypatch,
        "--config=quickstart",
        "--noconfig.data.flip",
        "--config.dry_run",
        "--config.seed=0x10",
        "--config.train.epochs",
        "3",
        "--config.data.mean=(0.5,)",
        "--config.teacher.data.scale=(1.0, 2.0)",
        "--config.methods.kd.tau=2",
        "--config.methods.dkd={'tau': 3.0}",
        "--config.weights['logits/distance']=0.5",
        "--config.evaluations.agreement.every_epochs=2.0",
    )
    resolved = resolve(config)
    assert (resolved.data.flip, resolved.dry_run, resolved.seed) == (False, True, 16)
    assert (resolved.train.epochs, resolved.data.mean) == (3.0, (0.5,))
    assert resolved.teacher.data.scale == (1.0, 2.0)
    assert (resolved.methods["kd"]["tau"], resolved.methods["dkd"]["tau"]) == (2, 3.0)
    assert resolved.weights == {"logits/distance": 0.5}
    assert resolved.evaluations["agreement"].every_epochs == 2.0


@pytest.fixture(scope="module")
def long_help():
    """The tables at the end of ``--helpfull``."""
    return command("--helpfull").stdout.partition("\nFields of a config.")[2]


def test_the_long_help_has_all_fields(long_help):
    paths = re.findall(r"^  --config\.([a-z_.0-9]+): ", long_help, re.MULTILINE)
    assert paths == list(FIELDS)
    assert "that may be unreadable.\n    (default: 0.001; a number at" in long_help


def test_the_long_help_ends_with_all_options(long_help):
    options = long_help.partition(
        "\nOptions of methods: --config.methods.METHOD.OPTION=VALUE\n"
    )[2]
    groups = re.findall(r"^  (\w[^:]*):$", options, re.MULTILINE)
    names = [name for group in groups for name in re.split(r",\s+", group)]
    assert sorted(names) == sorted([*METHODS, *TASKS, *MODELS, *DATASETS])
    assert "      tau=4.0 (a number above 0 and at most 1e+06)\n" in options
    assert "      resnet8x4: channels=(32, 64, 128, 256)\n" in options
    assert "splits=" not in options  # an argument that no option sets
    assert "mixup=" not in options  # a field of another section


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_short_help_says_where_the_fields_are(flag):
    done = command(flag)
    assert "``--helpfull`` ends with a table of all fields" in done.stdout
    assert "and of the options of all\nmethods, tasks, models and data" in done.stdout
    assert "--workdir" in done.stdout
    assert not done.stderr


BAD_RUNS = [
    ([], "--config: found none, expected one of ['cifar10', 'cifar100', 'cityscapes',"),
    (["--config=cifar100"], "data.path: found no path, expected"),
    (
        # The options of the recipe's own data are dropped.
        ["--config=segmentation_quickstart", "--config.data.name=masks"],
        "data.path: found no path, expected",
    ),
    (["--config=quickstart", "--config.student.options.widht=3"], "'widht'"),
    (
        ["--config=tests/helpers/tiny.py", "--config.student.options.widht=3"],
        "found ['widht'], expected any of ['dtype', 'width']",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_RUNS)
def test_bad_runs_end_with_one_line(arguments, message, tmp_path):
    done = command(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    done = command(
        "--config=quickstart:smoke", f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS="no"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX_PLATFORMS: found 'no', but no device")
    assert len(done.stderr.splitlines()) == 1


def test_tools_name_a_platform_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "diffkd_jax.export_weights"]
    done = subprocess.run(
        [*command, f"--from={tmp_path}", "--to=x.safetensors"],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "no", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: JAX_PLATFORMS: found 'no', but no device")


def test_an_interruption_is_a_line(monkeypatch, capsys):
    def run(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.app, "run", run)
    monkeypatch.setattr(main, "FLAGS", flags.FlagValues())
    monkeypatch.setenv("MPLBACKEND", "")
    with pytest.raises(SystemExit) as end:
        main.entry()
    assert end.value.code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_options_of_a_model_are_flags():
    """Options that the recipe sets stay beside them."""
    done = command(
        "--config=quickstart",
        "--config.dry_run=true",
        "--config.teacher.model=cifar_mobilenet_v2",
        "--config.teacher.options.width=0.25",
        "--config.student.options.norm_group_size=4",
    )
    assert done.returncode == 0, done.stderr
    assert "resnet8: 6,386 parameters" in done.stdout
    assert "cifar_mobilenet_v2: 2" in done.stdout


def test_dry_run_prints_on_a_clean_screen():
    done = command("--config", "quickstart", "--config.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("images     8,000 to train, 2,000 to evaluate")
    assert "resnet8: 6,386 parameters" in done.stdout


FULL = pathlib.Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="of Linux")


@needs_full
def test_a_printed_result_that_is_lost_is_an_error():
    with FULL.open("wb", buffering=0) as full:
        done = command("--config=quickstart", "--config.dry_run=true", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: stdout: found lines that")


@needs_full
@pytest.mark.parametrize(
    ("fields", "is_lost"),
    [
        ({"dry_run": True}, True),
        ({"mode": "evaluate"}, True),
        ({"mode": "predict"}, False),  # its result is in files, as that of training
        ({"mode": "train"}, False),
    ],
)
def test_only_a_result_without_a_file_must_not_be_lost(
    fields, is_lost, monkeypatch, capsys
):
    set_flags(monkeypatch, tiny_config(**fields))
    monkeypatch.setattr(main, "run", lambda *given, **options: console.say("score 0.5"))
    with FULL.open("wb", buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", streams.Stream(full.fileno(), "utf-8"))
        with pytest.raises(SystemExit) if is_lost else contextlib.nullcontext():
            assert main.main([]) == 0
    assert ("error: stdout: found" in capsys.readouterr().err) == is_lost


def parsed(monkeypatch, *arguments):
    """The config that a command line gives."""
    values = flags.FlagValues()
    define_flags(values)
    monkeypatch.setattr("sys.argv", [])
    main.parse_flags(["main", *arguments], values)
    return values.config


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_words_between_commas_are_several(monkeypatch):
    config = parsed(
        monkeypatch,
        "--config=quickstart",
        "--config.compare=none, kd,diffkd",
        "--config.optimizer.frozen=stem/*",
        "--config.student.inherit=('head/*',)",
    )
    assert config.compare == ("none", "kd", "diffkd")
    assert config.optimizer.frozen == ("stem/*",)
    assert config.student.inherit == ("head/*",)
