"""Config files of users: path and argument of the flag, and errors in the file."""

import pathlib
import re

import pytest
from absl import flags

from diffkd_jax import main
from diffkd_jax.config.command_line import define_flags
from diffkd_jax.config.recipes import recipe_file

GOOD = """
from diffkd_jax.config import base


def get_config(argument="none"):
    config = base()
    config.name = argument
    return config
"""


@pytest.fixture
def parse(monkeypatch, capsys):
    """``(*arguments) -> (flags, exit code, lines of errors)`` of a command line."""

    def parsed(*arguments):
        values = flags.FlagValues()
        argv = ["main", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", argv)  # as a command has it from the start
        define_flags(values)
        code = 0
        try:
            main.parse_flags(argv, values)
        except SystemExit as end:
            code = end.code
        return values, code, capsys.readouterr().err.splitlines()

    return parsed


def written(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("place", "given", "argument"),
    [
        ("2026-11-30T08:38:51/mine.py", "", "none"),
        ("2026-11-30T08:38:51/mine.py", ":a", "a"),
        ("mine.py:a", "", "none"),  # a file of that name goes first
        ("mine.py", ":a:b", "a:b"),
        ("mine.py", ":", ""),
        ("mine.py:a", ":b", "b"),
        ("no ending", ":a", "a"),
    ],
)
def test_a_file_that_is_there_goes_before_an_argument(
    parse, tmp_path, place, given, argument
):
    written(tmp_path / "mine.py", GOOD)
    file = written(tmp_path / place, GOOD)
    values, code, lines = parse(f"--config={file}{given}", "--config.seed=3")
    assert (code, lines) == (0, [])
    assert (values.config.name, values.config.seed) == (argument, 3)
    assert values.config.is_locked


def test_the_flag_and_its_value_may_be_two_words(parse, tmp_path):
    file = written(tmp_path / "a:b/mine.py", GOOD)
    values, code, _ = parse("--config", f"{file}:x", "--config.seed", "3")
    assert (code, values.config.name, values.config.seed) == (0, "x", 3)


def test_a_recipe_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert recipe_file("quickstart:smoke")[1] == ["smoke"]
    with pytest.raises(ValueError, match=r"found nothing at '.*nowhere'"):
        recipe_file("nowhere:smoke")
    with pytest.raises(ValueError, match=r"^--config: found "):
        recipe_file("x" * 5000)


FAULTS = {
    "call": (
        "import numpy as np\ndef get_config():\n    np.no_such_function()\n",
        r"AttributeError in .*mine\.py, line 3, in get_config: .*no_such_function",
    ),
    "key": ("def get_config():\n    return {}['a']\n", r"KeyError in .*line 2.*'a'"),
    "deep": (
        "def get_config():\n    return helper()\ndef helper():\n    return 1 / 0\n",
        r"line 2, in get_config, then .*line 4, in helper: division by zero",
    ),
    "library": (
        "import json\ndef get_config():\n    json.loads('{')\n",
        r"JSONDecodeError in .*mine\.py, line 3, in get_config: Expecting",
    ),
    "recipe": (
        "from diffkd_jax.config import cifar\n"
        "def get_config():\n    return cifar('wrn', 'cifar10')\n",
        r"ValueError in .*mine\.py, line 3, in get_config: .*<teacher>-<student>",
    ),
    "import": ("import no_such_module\n", r"ModuleNotFoundError in .*line 1"),
    "file": ("open('/no/such/file')\n", r"FileNotFoundError in .*line 1.*/no/such"),
    "syntax": ("x = 1\ndef get_config(:\n", r"SyntaxError in .*mine\.py, line 2"),
    # Before 3.11.4, Python raised a ValueError without a line.
    "binary": ("\0\1", r"(Syntax|Value)Error in .*mine\.py(, line 1)?.*null bytes"),
    "field": (
        "from diffkd_jax.config import base\n"
        "def get_config():\n    return base().data.pth\n",
        r"line 3, in get_config: .*pth",
    ),
    "none": (
        "def get_config():\n    pass\n",
        "to return NoneType, expected a ConfigDi",
    ),
    "dict": ("def get_config():\n    return {}\n", "to return dict, expected a Config"),
    "empty": (
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'lr': 1.0})\n",
        r"found no fields \['checkpoint'.* start from it",
    ),
    "absent": ("config = 3\n", "found no function get_config in .*mine.py"),
    "number": ("get_config = 3\n", "found no function get_config in .*mine.py"),
    "exit": (
        "import sys\ndef get_config():\n    sys.exit()\n",
        r"SystemExit in .*mine\.py, line 3, in get_config",
    ),
    "required": (
        "def get_config(argument):\n    return argument\n",
        r"found no argument for get_config\(argument\) of .*mine\.py",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_an_error_of_a_config_names_its_file_and_line(parse, tmp_path, name):
    text, message = FAULTS[name]
    file = written(tmp_path / "mine.py", text)
    _, code, lines = parse(f"--config={file}", "--config.seed=3")
    assert code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: --config: found ")

    assert re.search(message, lines[0]), lines[0]


def test_an_argument_that_is_not_taken_is_named(parse, tmp_path):
    file = written(tmp_path / "mine.py", "def get_config():\n    return 3\n")
    _, code, (line,) = parse(f"--config={file}:fast")
    assert code == 1
    assert "found the argument 'fast' for get_config() of" in line


def test_a_frozen_config_is_taken(parse, tmp_path):
    frozen = GOOD.replace("return config", "return FrozenConfigDict(config)")
    frozen = f"from ml_collections import FrozenConfigDict\n{frozen}"
    file = written(tmp_path / "mine.py", frozen)
    values, code, lines = parse(f"--config={file}", "--config.seed=3")
    assert (code, lines, values.config.seed) == (0, [], 3)


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ValueError, match="found no file at "):
        recipe_file(f"{tmp_path}:x")


def test_the_traceback_is_there_for_who_asks(parse, tmp_path):
    file = written(tmp_path / "mine.py", FAULTS["deep"][0])
    _, code, lines = parse("--verbosity=1", f"--config={file}")
    assert code == 1
    assert "    return 1 / 0" in lines
    assert lines[-1].startswith("error: --config: found ZeroDivisionError")


def test_a_flag_file_holds_any_flag(parse, tmp_path):
    written(
        tmp_path / "more", "--config.student.options.width=0.5\n--config.data.path=/x\n"
    )
    file = written(
        tmp_path / "flags",
        "# a comment\n--config=quickstart:smoke\n\n--config.seed=3\n"
        f"--flagfile={tmp_path}/more\n",
    )
    values, code, lines = parse(f"--flagfile={file}", "--config.seed=4")
    assert (code, lines) == (0, [])
    assert values.config.student.options.width == 0.5
    assert (values.config.seed, values.config.data.path) == (4, "/x")


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xe9"])
def test_a_flag_file_that_cannot_be_read_is_named(parse, tmp_path, content):
    file = pathlib.Path(tmp_path / "flags")
    if content:
        file.write_bytes(content)
    for arguments in ([f"--flagfile={file}"], ["--flagfile"], ["--flagfile=/"]):
        _, code, (line,) = parse(*arguments)
        assert code == 1
        assert line.startswith("error: --flagfile: found ")
