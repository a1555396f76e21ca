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
    packaged, name = recipes(), value
    while True:
        try:
            file = packaged.get(name) or pathlib.Path(name).expanduser()
            if file.is_file():
                suffix = value[len(name) :]  # the colon and the argument
                return file, [suffix[1:]] if suffix else []
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
    content = "no file" if path.exists() and value else "nothing"
    raise ValueError(
        f"--config: found {content} at {str(path)!r}, expected a file or one of "
        f"{list(packaged)}"
    )
