"""Figures without ``pyplot``, drawn with matplotlib's default settings.

A caller's backend, settings and figures stay as they are, and none of them changes what
is drawn. If a figure fails, it is left out. matplotlib is only imported when something
is drawn.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .best_effort import add_note, attempt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = logging.getLogger(__name__)
COLOURS = {"teacher": "#444444", "student": "#d1495b", "denoised": "#00798c"}
FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for other letters, in the order in which they are tried if installed.
OTHER_FONTS = (
    *(f"Noto Sans CJK {region}" for region in ("JP", "SC", "TC", "KR", "HK")),
    *(f"Source Han Sans{region}" for region in ("", " SC", " TC", " K")),
    *(f"Noto Sans {region}" for region in ("JP", "SC", "TC", "KR", "Thai")),
    *("Noto Sans Devanagari", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Droid Sans Fallback", "IPAexGothic", "IPAGothic", "TakaoGothic", "NanumGothic"),
    *("Hiragino Sans", "PingFang SC", "PingFang HK", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic"),
    *("Arial Unicode MS", "FreeSans", "Unifont"),
)


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
    with _quietly():
        matplotlib = _import_matplotlib()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams["font.family"] = list(_fonts()) or ["sans-serif"]
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
    _import_matplotlib()
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


def literal(text: str, length: int = 40) -> str:
    r"""Returns a text that matplotlib shows literally.

    Formulas are escaped, long texts are cut, and letters that no installed font has
    become "?".

    Args:
      text: any text, such as a name.
      length: number of letters after which it is cut.

    >>> literal("$_^$")
    '\\$_^\\$'
    """
    text = text.encode("utf-8", "replace").decode()
    if lacking := _lacking(text):
        text = "".join("?" if c in lacking else c for c in text)
    text = text if len(text) <= length else f"{text[: length - 3]}..."
    text = f" {text}" if text.startswith("_") else text  # legends leave such names out
    return text.replace("$", r"\$")


def labels(names: Sequence[str], length: int = 40) -> list[str]:
    """Returns the names of classes for a figure, or their numbers.

    Numbers take the place of names if no installed font has the letters of all names.
    Then the report lists the names, see :func:`diffkd_jax.io.best_effort.noting`.

    Args:
      names: names of all classes, in order.
      length: number of letters after which a name is cut.

    >>> labels(["cat", "a_very_long_name"], 10)
    ['cat', 'a_very_...']
    """
    plain = [name.encode("utf-8", "replace").decode() for name in names]
    lacking = {c for c in _lacking("".join(plain)) if c.isprintable()}
    if not lacking:
        return [literal(name, length) for name in names]
    _tell_of_letters()
    listed = ", ".join(f"{k}: {name}" for k, name in enumerate(plain))
    add_note(f"Classes by their numbers in the figures: {listed}")
    return [str(k) for k in range(len(names))]


@functools.cache
def _tell_of_letters() -> None:
    """Logs once that the figures do not show the names of classes."""
    LOG.warning(
        "figures: found names of classes with letters that no installed font has; the "
        "figures number the classes, and the report lists their names; install a font "
        "such as Noto Sans CJK to have them in the figures"
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Drops messages of matplotlib about the user's settings and cache."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _import_matplotlib() -> ModuleType:
    """Imports matplotlib, without the user's settings if they make that fail."""
    try:
        import matplotlib
    except ImportError:
        raise
    except Exception:  # an unknown backend, a file that cannot be read
        from unittest import mock

        for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]
        spec = importlib.util.find_spec("matplotlib")
        assert spec is not None
        assert spec.origin is not None
        packaged = pathlib.Path(spec.origin).parent / "mpl-data" / "matplotlibrc"
        environment = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        environment["MATPLOTLIBRC"] = str(packaged)
        is_folder = os.path.isdir
        # A file in the working directory would come before that of the environment.
        is_skipped = lambda path: path == "matplotlibrc" or is_folder(path)
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("os.path.isdir", is_skipped),
        ):
            import matplotlib
    return matplotlib


@functools.cache
def _fonts() -> dict[str, frozenset[str]]:
    """Returns the letters of each installed font, in the order of the fonts."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    letters = {}
    for family in (FONT, *OTHER_FONTS):
        if family in installed:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # damaged
                file = fontManager.findfont(
                    FontProperties(family=[family]), fallback_to_default=False
                )
                letters[family] = frozenset(map(chr, get_font(file).get_charmap()))
    return letters


def _lacking(text: str) -> set[str]:
    r"""Returns the characters of a text that no font can show.

    >>> sorted(_lacking("a\x07\n"))
    ['\x07']
    """
    if text.isascii() and text.isprintable():
        return set()
    with _quietly():
        _import_matplotlib()
        drawable = frozenset("\n").union(*_fonts().values())
    return set(text) - drawable
