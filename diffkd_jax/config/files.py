"""Config files of users, read and reported on.

A config file is a Python program of the user. What it raises is reported with the file
and line in which it was raised.
"""

import importlib.machinery
import importlib.util
import inspect
import pathlib
import sys
import sysconfig
import traceback
from collections.abc import Collection
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from .recipes import recipe_file, recipe_folder
from .recorded import check_named, import_paths, read_record

MODULE = "config_file_of_the_command_line"
MOST_FRAMES = 3  # of the user's that are named, the innermost ones
# Frames in these are Python's, a library's or ours.
OTHERS = (
    pathlib.Path(__file__).parents[1],
    *(pathlib.Path(sysconfig.get_path(n)) for n in ("stdlib", "purelib", "platlib")),
)


class BadConfig(Exception):
    """The error that a config file cannot be read or raises an error; one line.

    It is not a ValueError, because absl adds the flag and its value to the message of
    a ValueError.
    """


class ConfigParser(flags.ArgumentParser[Any]):
    """A parser of the value of ``--config``: ``<file>`` or ``<file>:<argument>``."""

    def __init__(self) -> None:
        super().__init__()
        # Import paths of a run's record, by field: the command line must name them too.
        self.recorded: dict[str, str] = {}
        self.workdir = ""  # of that run

    def parse(self, argument: Any) -> Any:
        """Returns the config of a file or recipe, locked against new fields."""
        file, _ = recipe_file(argument)
        config = _read(argument)
        is_record = file.suffix == ".json"
        self.recorded = import_paths(config.to_dict()) if is_record else {}
        self.workdir = str(file.parent) if is_record else ""
        return config.lock()

    def flag_type(self) -> str:
        """Returns the name of the flag's type in the help."""
        return "config file"


def read_config(value: str, named: Collection[str] = ()) -> ConfigDict:
    """Returns the config of a Python file, which is run, or of a run's ``config.json``.

    Args:
      value: ``<path>`` or ``<path>:<argument>``, or a recipe's name as the path. A path
        that ends in ``.json`` is the ``config.json`` of a run.
      named: import paths that a ``config.json`` may hold, because the caller names them
        too.

    Raises:
      BadConfig: The file cannot be read or run, or returns no config.
      ValueError: There is no such file, or it holds an import path that is not in
        ``named``.
    """
    config = _read(value)
    if recipe_file(value)[0].suffix == ".json":
        paths = import_paths(config.to_dict())
        check_named({k: path for k, path in paths.items() if path not in named}, ())
    return config


def _read(value: str) -> ConfigDict:
    file, arguments = recipe_file(value)
    if file.suffix == ".json":
        if arguments:
            raise BadConfig(
                f"--config: found the argument {arguments[0]!r} for {file}, expected "
                "none: a run's record takes no argument"
            )
        try:
            return read_record(file)
        except (ValueError, OSError) as error:
            raise BadConfig(f"--config: {error}") from error
    try:
        module = _load(file)
        make = getattr(module, "get_config", None)
        if not callable(make):
            raise BadConfig(
                f"--config: found no function get_config in {file}, expected "
                "get_config(argument='') that returns a config"
            )
        _check_arguments(make, arguments, file)
        config = make(*arguments)
    except BadConfig:
        raise
    except (Exception, SystemExit) as error:  # one that exits has made no run
        raise BadConfig(describe_error(error, file)) from error
    if isinstance(config, FrozenConfigDict):
        config = ConfigDict(config)
    if not isinstance(config, ConfigDict):
        raise BadConfig(
            f"--config: found get_config of {file} to return "
            f"{type(config).__name__}, expected a ConfigDict, as of "
            "diffkd_jax.config.base(); is there a return statement?"
        )
    _check_fields(config, file)
    return config


def describe_error(error: BaseException, file: pathlib.Path) -> str:
    """Returns one line that says which error was raised and where.

    The places are those in the user's files. A ValueError of a packaged recipe gives
    its message alone, since it says what is wrong with the argument.

    Args:
      error: what the config file raised.
      file: the config file.
    """
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and file.parent.resolve() == (
        recipe_folder().resolve()
    ):
        return text
    frames = traceback.extract_tb(error.__traceback__)
    places = [
        f"{frame.filename}, line {frame.lineno}, in {frame.name}"
        for frame in frames
        if _is_users(frame.filename)
    ][-MOST_FRAMES:]
    if isinstance(error, SyntaxError):
        text = error.msg
        places.append(f"{error.filename or file}, line {error.lineno or 1}")
    position = ", then ".join(places) or str(file)
    return f"--config: found {type(error).__name__} in {position}: {text}"


def _load(file: pathlib.Path) -> Any:
    loader = importlib.machinery.SourceFileLoader(MODULE, str(file))
    spec = importlib.util.spec_from_loader(MODULE, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses look for their module there
    loader.exec_module(module)
    return module


def _is_users(name: str) -> bool:
    path = pathlib.Path(name)
    return not name.startswith("<") and not any(map(path.is_relative_to, OTHERS))


def _check_arguments(make: Any, arguments: list[str], file: pathlib.Path) -> None:
    signature = inspect.signature(make)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        passed = f"the argument {arguments[0]!r}" if arguments else "no argument"
        raise BadConfig(
            f"--config: found {passed} for get_config{signature} of {file}: {error}; "
            "an argument follows the file after a colon"
        ) from None


def _check_fields(config: ConfigDict, file: pathlib.Path) -> None:
    from .defaults import base  # imports JAX

    missing = sorted(set(base()) - set(config))
    if missing:
        raise BadConfig(
            f"--config: found no fields {missing} in the config of {file}, expected "
            "all of diffkd_jax.config.base(); start from it"
        )
