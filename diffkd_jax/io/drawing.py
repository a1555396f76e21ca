"""Figures without ``pyplot``, under matplotlib's own defaults.

A caller's backend, settings and figures stay as they are, and none of them changes what
is drawn. A figure that fails is left out. matplotlib is imported where something is
drawn.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .best_effort import add_note, attempt

LOG = logging.getLogger(__name__)
COLOURS = {"teacher": "#444444", "student": "#d1495b", "denoised": "#00798c"}
FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts for other letters, in the order in which they are asked, where installed.
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
    """Draws what is inside, or a function that it decorates, under the defaults.

    Neither files of settings nor the environment of the user count, and matplotlib says
    nothing of them.
    """
    with _quietly():
        matplotlib = _import_matplotlib()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams["font.family"] = list(_fonts()) or ["sans-serif"]
            yield


def draw_files(name: str, draw: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Draws figures under :func:`defaults`, each attempt for itself.

    Args:
      name: of the figures, for the report.
      draw: returns the files that it wrote.
      arguments: of the function.

    Returns:
      The files, none where drawing failed.
    """

    def drawn() -> list[pathlib.Path]:
        with defaults():
            files = [pathlib.Path(file) for file in draw(*arguments) or ()]
        for file in files:
            file.open("rb").close()  # a folder or a file that is absent is no figure
        return files

    return attempt(name, drawn) or []


def subplots(lines: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """Returns a figure and its axes; ``figsize`` and what ``Figure.subplots`` takes."""
    _import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=options.pop("figsize"))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, **options)


def save_figure(figure: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG file, and returns where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def literal(text: str, most: int = 40) -> str:
    """Returns a name as matplotlib shows it: no formula, not long, no missing letters.

    >>> literal("$_^$")
    '\\\\$_^\\\\$'
    """
    text = text.encode("utf-8", "replace").decode()
    if lacking := _lacking(text):
        text = "".join("?" if c in lacking else c for c in text)
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    text = f" {text}" if text.startswith("_") else text  # which legends leave out
    return text.replace("$", r"\$")


def labels(names: Sequence[str], most: int = 40) -> list[str]:
    """Returns the names of classes for a figure, or their numbers.

    Numbers stand where no font that is installed has the letters of the names. The page
    then lists the names, see :func:`diffkd_jax.io.best_effort.noting`.

    Args:
      names: of all classes, in order.
      most: letters of a name that are shown.
    """
    plain = [name.encode("utf-8", "replace").decode() for name in names]
    lacking = {c for c in _lacking("".join(plain)) if c.isprintable()}
    if not lacking:
        return [literal(name, most) for name in names]
    _tell_of_letters()
    listed = ", ".join(f"{k}: {name}" for k, name in enumerate(plain))
    add_note(f"Classes by their numbers in the figures: {listed}")
    return [str(k) for k in range(len(names))]


@functools.cache
def _tell_of_letters() -> None:
    """Says once that names of classes are not in the figures."""
    LOG.warning(
        "figures: found names of classes with letters that no installed font has; the "
        "figures number the classes, and the report lists their names; install a font "
        "such as Noto Sans CJK to have them in the figures"
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps back what matplotlib logs of the user's settings and cache."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _import_matplotlib() -> Any:
    """Imports matplotlib, without the user's settings where they make that fail."""
    try:
        import matplotlib
    except ImportError:
        raise
    except Exception:  # a backend that is not known, a file that cannot be read
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
        # A file of the working directory would go before the one of the environment.
        passed_over = lambda path: path == "matplotlibrc" or is_folder(path)
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch("os.path.isdir", passed_over),
        ):
            import matplotlib
    return matplotlib


@functools.cache
def _fonts() -> dict[str, frozenset[str]]:
    """Returns the fonts that are asked in turn, each with its letters."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    installed = {font.name for font in fontManager.ttflist}
    found = {}
    for family in (FONT, *OTHER_FONTS):
        if family in installed:
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # damaged
                file = fontManager.findfont(
                    FontProperties(family=[family]), fallback_to_default=False
                )
                found[family] = frozenset(map(chr, get_font(file).get_charmap()))
    return found


def _lacking(text: str) -> set[str]:
    """Returns the characters of a text that would be empty boxes.

    >>> sorted(_lacking("a\\x07\\n"))
    ['\\x07']
    """
    if text.isascii() and text.isprintable():
        return set()
    with _quietly():
        _import_matplotlib()
        known = frozenset("\n").union(*_fonts().values())
    return set(text) - known
