"""The packaged recipes by name, and the file that ``--config`` names."""

import pathlib
from importlib import resources


def recipe_folder() -> pathlib.Path:
    """Returns the folder of the packaged recipes, installed or in a checkout."""
    try:
        return pathlib.Path(str(resources.files("diffkd_jax.configs")))
    except ModuleNotFoundError:
        return pathlib.Path(__file__).parents[2] / "configs"


def recipes() -> dict[str, pathlib.Path]:
    """Returns the files of the packaged recipes, by name.

    >>> "quickstart" in recipes()
    True
    """
    files = sorted(recipe_folder().glob("[!_]*.py"))
    return {file.stem: file for file in files}


def recipe_file(value: str) -> tuple[pathlib.Path, list[str]]:
    """Finds the file that ``--config`` names, and the argument after its colon.

    A path may contain colons. The longest beginning of ``value`` that is an existing
    file or the name of a packaged recipe is the file; the rest, after a colon, is the
    argument.

    Args:
      value: ``<name>`` or ``<path>``, optionally followed by ``:<argument>``.

    Raises:
      ValueError: It is neither a packaged recipe nor an existing file.

    >>> file, arguments = recipe_file("quickstart:smoke")
    >>> file.name, arguments
    ('quickstart.py', ['smoke'])
    """
    known, name = recipes(), value
    while True:
        try:
            file = known.get(name) or pathlib.Path(name).expanduser()
            if file.is_file():
                rest = value[len(name) :]
                return file, [rest[1:]] if rest else []
        except (
            RuntimeError,
            OSError,
            ValueError,
        ) as error:  # an unknown user, too long a name
            raise ValueError(f"--config: found {name!r}: {error}") from None
        name, colon, _ = name.rpartition(":")
        if not colon:
            break
    path = pathlib.Path(value.partition(":")[0]).expanduser().absolute()
    what = "no file" if path.exists() and value else "nothing"
    raise ValueError(
        f"--config: found {what} at {str(path)!r}, expected a file or one of "
        f"{list(known)}"
    )
