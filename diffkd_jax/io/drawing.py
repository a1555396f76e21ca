"""Figures without ``pyplot``, drawn with matplotlib's default settings.

A caller's backend, settings and figures stay as they are, and none of them changes what
is drawn. If a figure fails, it is left out. matplotlib is only imported when something
is drawn.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .best_effort import attempt
from .figure_text import letters_by_font
from .matplotlib_import import import_matplotlib, quietly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"teacher": "#444444", "student": "#d1495b", "denoised": "#00798c"}


@contextlib.contextmanager
def defaults() -> Iterator[None]:
    """Applies matplotlib's default settings inside a context or a decorated function.

    Settings from files and from the user's environment do not count, and matplotlib's
    messages about them are not logged.

    >>> with defaults():
    ...     figure, axis = subplots(figsize=(2, 2))
    >>> float(figure.get_figwidth())
    2.0
    """
    with quietly():
        matplotlib = import_matplotlib()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams["font.family"] = list(letters_by_font()) or [
                "sans-serif"
            ]
            yield


def draw_files(name: str, draw: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Draws figures with :func:`defaults`, and leaves them out if that fails.

    Args:
      name: name of the figures, for the report.
      draw: function that draws, and returns the files that it wrote.
      *arguments: arguments of the function.

    Returns:
      The files; none if drawing failed.

    >>> draw_files("curves", lambda: [])
    []
    """

    def drawn() -> list[pathlib.Path]:
        with defaults():
            files = [pathlib.Path(file) for file in draw(*arguments) or ()]
        for file in files:
            file.open("rb").close()  # raises for a folder or an absent file
        return files

    return attempt(name, drawn) or []


def subplots(lines: int = 1, columns: int = 1, **options: Any) -> tuple["Figure", Any]:
    """Makes a figure and its axes.

    Args:
      lines: number of rows of axes.
      columns: number of columns of axes.
      **options: ``figsize``, width and height in inches, which is needed; and arguments
        of ``Figure.subplots``.

    Returns:
      The figure, and its axes or array of axes.

    >>> figure, axes = subplots(1, 2, figsize=(4, 2))
    >>> axes.shape
    (2,)
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=options.pop("figsize"))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, **options)


def save_figure(figure: "Figure", path: pathlib.Path) -> pathlib.Path:
    """Writes a figure to a PNG file.

    Args:
      figure: the figure.
      path: the file; its folder is made if absent.

    Returns:
      The path.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     figure, axis = subplots(figsize=(2, 2))
    ...     save_figure(figure, pathlib.Path(folder) / "one.png").stat().st_size > 0
    True
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path
