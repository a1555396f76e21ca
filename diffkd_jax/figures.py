"""Figures without ``pyplot``: a caller's backend and figures stay as they are.

matplotlib is imported where something is drawn.
"""

import pathlib
from typing import Any

COLOURS = {"teacher": "#444444", "student": "#d1495b", "denoised": "#00798c"}


def subplots(lines: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes; ``figsize`` and what ``Figure.subplots`` takes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=options.pop("figsize"))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, **options)


def save(figure: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes a PNG file, and returns where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    return path


def literal(text: str, most: int = 40) -> str:
    """A name as matplotlib shows it: no formula, no bytes that are no text, not long.

    >>> literal("$_^$")
    '\\\\$_^\\\\$'
    """
    text = text.encode("utf-8", "replace").decode()
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    text = f" {text}" if text.startswith("_") else text  # which legends leave out
    return text.replace("$", r"\$")
