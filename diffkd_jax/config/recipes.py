"""The packaged recipes by name, and options of models among the flags."""

import ast
import pathlib
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

# Fields of earlier versions, and the field that replaces each.
REPLACED = {"teacher.min_top1": "teacher.min_score"}
# Whose names are those of functions that a config names, or of losses.
OPTION = re.compile(
    r"--?config\.((?:student|teacher|task)\.options\.[^.]*"
    r"|data\.options\.[^.]*|method_options\.[^.]*"
    r"|(?:methods|evaluations)\.[^.]*\.[^.]*|weights\.[^.]*"
    r"|weights\[['\"][^'\"]*['\"]\])"
)

# Fields that hold several words.
WORDS = re.compile(
    r"--?config\.(compare|optimizer\.frozen|student\.(inherit|init_leave_out))"
)


def recipe_folder() -> pathlib.Path:
    """Where the packaged recipes lie: installed, or in a checkout."""
    try:
        return pathlib.Path(str(resources.files("diffkd_jax.configs")))
    except ModuleNotFoundError:
        return pathlib.Path(__file__).parents[2] / "configs"


def recipes() -> dict[str, pathlib.Path]:
    """The packaged recipes by name.

    >>> "quickstart" in recipes()
    True
    """
    files = sorted(recipe_folder().glob("[!_]*.py"))
    return {file.stem: file for file in files}


def recipe_file(given: str) -> tuple[pathlib.Path, list[str]]:
    """Finds the file that ``--config`` names, and its argument, if there is one.

    A colon may be part of the path: the longest part that is a file, or the name of a
    packaged recipe, is taken, and what follows its colon is the argument.

    Raises:
      ValueError: neither a packaged recipe nor an existing file.

    >>> file, arguments = recipe_file("quickstart:smoke")
    >>> file.name, arguments
    ('quickstart.py', ['smoke'])
    """
    known, name = recipes(), given
    while True:
        try:
            file = known.get(name) or pathlib.Path(name).expanduser()
            if file.is_file():
                rest = given[len(name) :]
                return file, [rest[1:]] if rest else []
        except (RuntimeError, OSError, ValueError) as error:  # of no user, too long
            raise ValueError(f"--config: found {name!r}: {error}") from None
        name, colon, _ = name.rpartition(":")
        if not colon:
            break
    path = pathlib.Path(given.partition(":")[0]).expanduser().absolute()
    what = "no file" if path.exists() and given else "nothing"
    raise ValueError(
        f"--config: found {what} at {str(path)!r}, expected a file or one of "
        f"{list(known)}"
    )


def as_tuple_of_words(argument: str) -> str:
    """Returns an argument in which words between commas are a tuple.

    >>> as_tuple_of_words("--config.compare=none,kd")
    "--config.compare=('none', 'kd')"
    >>> as_tuple_of_words("--config.compare=('none',)")
    "--config.compare=('none',)"
    """
    flag, separator, value = argument.partition("=")
    if not (WORDS.fullmatch(flag) and value) or value.startswith(("(", "[")):
        return argument
    words = tuple(word.strip(" '\"") for word in value.split(",") if word.strip())
    return f"{flag}{separator}{words}"


def take_options(arguments: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """Parts options of models, tasks, methods and the like from the other arguments.

    What a function takes is not known before the config that names it is read, so
    these, ``--config.<section>.options.<name>=<value>`` and the like, cannot be flags.
    Values are Python literals (numbers, tuples, True, None), else text.

    Returns:
      The other arguments, and the values by field.

    Raises:
      ValueError: An option has no value, or a field belongs to an earlier version.

    >>> take_options(["--a=1", "--config.student.options.width=0.5"])
    (['--a=1'], {'student.options.width': 0.5})
    """
    rest: list[str] = []
    options: dict[str, Any] = {}
    for argument in arguments:
        flag, separator, value = argument.partition("=")
        field = flag.lstrip("-").removeprefix("config.")
        if flag.startswith("-") and field in REPLACED:
            raise ValueError(
                f"{flag}: found a field of an earlier version, expected "
                f"--config.{REPLACED[field]}; use that one instead"
            )
        match = OPTION.fullmatch(flag)
        if not match:
            rest.append(as_tuple_of_words(argument))
        elif not separator:
            raise ValueError(
                f"--config.{match[1]}: found no value, expected {flag}=VALUE"
            )
        else:
            options[re.sub(r"\[['\"](.*)['\"]\]", r".\1", match[1])] = _literal(value)
    return rest, options


def _literal(text: str) -> Any:
    word = {"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return text
