"""The flags of the command line, and the reports of wrong ones."""

import os
import re
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any

from absl import flags
from ml_collections import config_flags

from ..io import console
from .files import BadConfig, ConfigParser
from .flags import flag_faults, set_options, take_options, unknown_flag
from .help import describe_fields
from .recipes import recipes
from .recorded import check_named


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags ``config``, ``workdir`` and ``compilation_cache``.

    They are not defined on import, because a program that imports this package may
    have flags of the same names.

    Args:
      values: the flags of the program, to which these are added.
    """
    # ml_collections reads files of --flagfile here, whose errors are ours to report.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        config_flags.DEFINE_config_file(
            "config",
            None,
            "A packaged recipe, such as quickstart, or a config file; an argument goes "
            "after a colon where it takes one. --helpfull ends with all fields, and "
            "with all options of models and the like.",
            flag_values=values,
        )
    finally:
        sys.argv = arguments
    # ml_collections' own parser splits at the first colon, and hides a file's errors.
    values["config"].parser = ConfigParser()
    flags.DEFINE_string(
        "workdir",
        "",
        "Directory of the run; runs/<name of the config> by default.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "compilation_cache",
        os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "diffkd_jax"),
        "Directory that keeps compiled and traced programs from run to run; empty for "
        "none.",
        flag_values=values,
    )


def parse_command_line(
    argv: list[str],
    values: flags.FlagValues,
    fields_set: set[str],
    adapt: Callable[[Any, Collection[str]], None],
    describe_options: Callable[[], str],
) -> list[str]:
    """Parses flags and options, and sets the config.

    If the arguments are wrong, it reports the error and exits with code 1.

    Args:
      argv: name of the program, and its arguments.
      values: the flags to set.
      fields_set: a set to which the paths of the config's fields are added that the
        arguments set.
      adapt: function ``(config, fields_set) -> None`` that changes the config after all
        arguments are set. Its errors are reported too.
      describe_options: function that returns the end of the long help.

    Returns:
      The arguments that are not flags.
    """
    try:
        argv = _with_flag_files(argv, values)
        arguments, options = take_options(argv)
        sys.argv = arguments  # ml_collections looks for fields of the config there
        remaining = _parsed(values, describe_options)
        fields_set |= {*config_flags.get_override_values(values["config"]), *options}
        parser = values["config"].parser
        assert isinstance(parser, ConfigParser)
        check_named(parser.recorded, fields_set)
        set_options(values.config, options)
        adapt(values.config, fields_set)
    except BadConfig as error:
        if _is_verbose(argv):
            traceback.print_exception(error.__cause__ or error)
        _stop(str(error))
    except (AttributeError, KeyError) as error:  # of an absent mapping
        name = " ".join(str(error.args[0]).split())
        _stop(f"command line: found {name}, expected a field that --helpfull lists")
    except flags.UnrecognizedFlagError as error:
        _stop(unknown_flag(error.flagname, values))
    except flags.IllegalFlagValueError as error:
        _stop(_in_our_words(str(error)))
    except flags.DuplicateFlagError:  # ml_collections defines the fields for each
        _stop("--config: found more than one, expected one")
    except (flags.Error, ImportError, ValueError, TypeError, OSError) as error:
        if match := re.match(r"Found (\S+) in argv before a value", str(error)):
            _stop(f"--config: found {match[1]} before it, expected --config first")
        _stop("\n".join(" ".join(line.split()) for line in str(error).splitlines()))
    return remaining


def _parsed(values: flags.FlagValues, describe_options: Callable[[], str]) -> list[str]:
    """Parses ``sys.argv``, which must name a config.

    The long help ends with the fields of a config and with the options.
    """
    sys.argv = ["--help" if argument == "-h" else argument for argument in sys.argv]
    try:
        remaining = values(sys.argv)
    except SystemExit:
        if {"--helpfull", "-helpfull"} & {*sys.argv}:
            print(f"\n{describe_fields()}\n\n{describe_options()}")
        raise
    if values.config is None:
        raise ValueError(
            f"--config: found none, expected one of {list(recipes())} or a config "
            "file; --config=quickstart trains in minutes, with nothing to download"
        )
    if remaining[1:]:
        raise ValueError(f"command line: found {remaining[1:]}, expected flags only")
    return remaining


def _in_our_words(text: str) -> str:
    """Returns the error line for a wrong value of a flag, in place of absl's."""
    text = re.sub(r"^flag --config=.*?: (?=--config: )", "", text, flags=re.DOTALL)
    match = re.match(r"flag --config\.([^=]+)=(.*?): ", text, re.DOTALL)
    faults = list(flag_faults(*match.groups())) if match else []
    return faults[0] if faults else " ".join(text.split())


def _with_flag_files(arguments: list[str], values: flags.FlagValues) -> list[str]:
    """Returns the arguments, with the lines of files in the place of ``--flagfile``.

    Options of models can stand in such a file too.

    Raises:
      ValueError: a file cannot be read.
    """
    try:
        return [arguments[0], *values.read_flags_from_files(arguments[1:])]
    except (flags.Error, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"--flagfile: found {text}; expected a text file, one flag on each line"
        ) from None


def _is_verbose(arguments: list[str]) -> bool:
    """Returns whether ``--verbosity`` asks for tracebacks, before flags are parsed."""
    return any(re.match(r"--?(v|verbosity)=[1-9]", a) for a in arguments)


def _stop(message: str) -> None:
    console.say(f"error: {message}", error=True)
    sys.exit(1)
