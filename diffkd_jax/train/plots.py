"""Figures of a run, drawn with matplotlib into PNG files.

Figures are made without ``pyplot``, so that a caller's backend and figures stay as they
are, and matplotlib is imported where something is drawn.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLOURS = {"teacher": "#444444", "student": "#d1495b", "denoised": "#00798c"}


def losses(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One panel for each loss term against the step."""
    names = [name for name in rows[-1] if name.startswith("loss/")]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, axes = _subplots(
        lines, columns, figsize=(3.6 * columns, 2.5 * lines), squeeze=False
    )
    steps = [row["step"] for row in rows]
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(
            steps, [row.get(name, np.nan) for row in rows], color=COLOURS["denoised"]
        )
        axis.set(title=literal(name.removeprefix("loss/")), xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    _save(figure, path)


def accuracy(
    path: pathlib.Path,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    teacher: float | None,
) -> None:
    """Top-1 of each run's student against the step, and the teacher's as a line."""
    figure, axis = _subplots(figsize=(6.4, 3.8))
    for name, rows in curves.items():
        steps = [row["step"] for row in rows]
        values = [100 * row["eval/top1"] for row in rows]
        axis.plot(
            steps, values, marker="." if len(rows) < 40 else "", label=literal(name)
        )
    if teacher is not None:
        axis.axhline(100 * teacher, color=COLOURS["teacher"], ls="--", label="teacher")
    axis.set(xlabel="step", ylabel="top-1 accuracy, %")
    axis.legend()
    axis.grid(alpha=0.3)
    _save(figure, path)


def gamma(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], tap: str) -> None:
    """Share of examples by gamma over time, with the mean on top (paper fig. 5)."""
    counts = np.array([row[f"gamma/{tap}/histogram"] for row in rows], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
    steps = np.array([row["step"] for row in rows], float)
    edges = np.concatenate([[0.0], steps])
    figure, axis = _subplots(figsize=(6.4, 3.4))
    levels = np.linspace(0, 1, counts.shape[1] + 1)
    mesh = axis.pcolormesh(edges, levels, shares.T, cmap="Blues", vmin=0)
    means = [row[f"gamma/{tap}/mean"] for row in rows]
    axis.plot(steps, means, color=COLOURS["student"], label="mean")
    axis.set(
        xlabel="step", ylabel="gamma", title=f"{literal(tap)}: share of student kept"
    )
    axis.legend(loc="lower left")
    figure.colorbar(mesh, label="share of examples")
    _save(figure, path)


def trajectory(path: pathlib.Path, points: Mapping[str, np.ndarray], tap: str) -> None:
    """Denoising of test features in the plane of the teacher's first components.

    Args:
      path: PNG file to write.
      points: ``teacher`` ``[n, 2]``, ``denoised`` ``[n, 2]``, ``steps``
        ``[num_steps + 1, n, 2]``, from the noise-matched student to the last step.
      tap: name of the tap.
    """
    steps = points["steps"]
    panels = [("noise-matched student", steps[0])]
    panels += [(f"step {i}", step) for i, step in enumerate(steps[1:], 1)]
    panels.append(("after projection", points["denoised"]))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = _subplots(
        lines,
        columns,
        figsize=(3 * columns, 2.9 * lines),
        squeeze=False,
        sharex=True,
        sharey=True,
    )
    # A few examples far out would otherwise squeeze everything else.
    everything = np.concatenate([points["teacher"], *(p for _, p in panels)])
    low, high = np.percentile(everything, [1, 99], axis=0)
    margin = 0.1 * (high - low)
    for axis, (title, at) in zip(axes.flat, panels, strict=False):
        axis.scatter(*points["teacher"].T, s=6, color=COLOURS["teacher"], alpha=0.35)
        axis.scatter(*at.T, s=6, color=COLOURS["denoised"], alpha=0.7)
        distance = np.linalg.norm(at - points["teacher"], axis=1).mean()
        axis.set_title(f"{title}, distance {distance:.2f}", fontsize=9)
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(f"{literal(tap)}: denoising (colour) towards the teacher (grey)")
    _save(figure, path)


def confusion(
    path: pathlib.Path, counts: np.ndarray, class_names: Sequence[str]
) -> None:
    """Share of each label's examples by prediction, in percent."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = 2.5 + 0.45 * len(counts)
    figure, axis = _subplots(figsize=(side, side))
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.5:
            colour = "white" if share > 60 else "black"
            text = f"{share:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, size=8)
    ticks, names = range(len(class_names)), [literal(name) for name in class_names]
    axis.set_xticks(ticks, names, rotation=60, ha="right")
    axis.set_yticks(ticks, names)
    axis.set(xlabel="predicted", ylabel="label", title="confusion, % of each label")
    _save(figure, path)


def comparison(path: pathlib.Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Final top-1 of each method as bars."""
    figure, axis = _subplots(figsize=(6.4, 3.4))
    names = [literal(r["method"]) for r in results]
    values = [100 * r["final_top1"] for r in results]
    bars = axis.bar(range(len(names)), values, color=COLOURS["denoised"])
    axis.set_xticks(range(len(names)), names)
    axis.bar_label(bars, fmt="%.2f")
    spread = max(max(values) - min(values), 1.0)
    axis.set_ylim(min(values) - 0.5 * spread, max(values) + 0.3 * spread)
    axis.set_ylabel("top-1 accuracy, %")
    _save(figure, path)


def literal(text: str, most: int = 40) -> str:
    """A name as matplotlib shows it: no formula, no bytes that are no text, not long.

    >>> literal("$_^$")
    '\\\\$_^\\\\$'
    """
    text = text.encode("utf-8", "replace").decode()
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    text = f" {text}" if text.startswith("_") else text  # which legends leave out
    return text.replace("$", r"\$")


def _subplots(lines: int = 1, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=options.pop("figsize"))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, **options)


def _save(figure: Any, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
