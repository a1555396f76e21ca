"""The packaged recipes by name, and the file that ``--config`` names."""

import pathlib
from importlib import resources


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
