"""Draws the figures of a run with matplotlib into PNG files."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...io.drawing import COLOURS, defaults, draw_files, save_figure, subplots
from ...io.figure_text import literal


@defaults()
def draw_losses(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws one panel for each loss term against the step.

    Args:
      path: the PNG file to write.
      rows: rows of ``metrics.jsonl`` with losses.
    """
    names = dict.fromkeys(n for row in rows for n in row if n.startswith("loss/"))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure, axes = subplots(
        lines, columns, figsize=(3.6 * columns, 2.5 * lines), squeeze=False
    )
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), color=COLOURS["denoised"])
        axis.set(title=literal(name.removeprefix("loss/")), xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    save_figure(figure, path)


@defaults()
def draw_scores(
    path: pathlib.Path,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    headline: str,
    teacher: float | None,
) -> None:
    """Draws the headline score of each run's student by step.

    The teacher's score is a horizontal line.

    Args:
      path: the PNG file to write.
      curves: rows of ``metrics.jsonl`` with the score, by name of the run.
      headline: name of the score.
      teacher: the teacher's score, or None.
    """
    figure, axis = subplots(figsize=(6.4, 3.8))
    for name, rows in curves.items():
        steps = [row["step"] for row in rows]
        values = [row[f"eval/{headline}"] for row in rows]
        axis.plot(
            steps, values, marker="." if len(rows) < 40 else "", label=literal(name)
        )
    if teacher is not None:
        axis.axhline(teacher, color=COLOURS["teacher"], ls="--", label="teacher")
    axis.set(xlabel="step", ylabel=literal(headline))
    axis.legend()
    axis.grid(alpha=0.3)
    save_figure(figure, path)


@defaults()
def draw_gradients(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws how the gradient of each loss compares with that of the task by step.

    One panel shows the ratio of their norms, the other one the cosine between them. A
    loss that does not train the student has no line.

    Args:
      path: the PNG file to write.
      rows: rows of ``metrics.jsonl`` with compared gradients.
    """
    figure, axes = subplots(1, 2, figsize=(9.6, 3.6))
    kinds = {"gradient_ratio/": (1.0, "log"), "gradient_cosine/": (0.0, "linear")}
    names = dict.fromkeys(n for row in rows for n in row if n.startswith(tuple(kinds)))
    losses = dict.fromkeys(name.partition("/")[2] for name in names)
    for axis, (kind, (neutral, scale)) in zip(axes, kinds.items(), strict=True):
        for number, loss in enumerate(losses):
            values = np.array([row.get(kind + loss, np.nan) for row in rows], float)
            drawn = np.isfinite(values) & ((values > 0) | (scale == "linear"))
            if drawn.any():
                steps = np.array([row["step"] for row in rows])[drawn]
                style = {"color": f"C{number % 10}", "marker": "."}
                axis.plot(steps, values[drawn], label=literal(loss), **style)
        axis.axhline(neutral, color="black", lw=0.8)
        axis.set(xlabel="step", yscale=scale)
        axis.grid(alpha=0.3)
    axes[0].set_title("norm of the gradient / that of the task")
    axes[1].set(title="cosine with the task's gradient", ylim=(-1.05, 1.05))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8)
    save_figure(figure, path)


@defaults()
def draw_gamma(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], tap: str) -> None:
    """Draws how gamma is distributed over the examples by step (paper fig. 5).

    Gamma is the share that noise matching keeps of a student's feature. A line shows
    its mean.

    Args:
      path: the PNG file to write.
      rows: rows of ``metrics.jsonl`` with the tap's histogram of gamma.
      tap: name of the tap.
    """
    counts = np.array([row[f"gamma/{tap}/histogram"] for row in rows], float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
    steps = np.array([row["step"] for row in rows], float)
    edges = np.concatenate([[0.0], steps])
    figure, axis = subplots(figsize=(6.4, 3.4))
    levels = np.linspace(0, 1, counts.shape[1] + 1)
    mesh = axis.pcolormesh(edges, levels, shares.T, cmap="Blues", vmin=0)
    means = [row[f"gamma/{tap}/mean"] for row in rows]
    axis.plot(steps, means, color=COLOURS["student"], label="mean")
    axis.set(
        xlabel="step", ylabel="gamma", title=f"{literal(tap)}: share of student kept"
    )
    axis.legend(loc="lower left")
    figure.colorbar(mesh, label="share of examples")
    save_figure(figure, path)


@defaults()
def draw_trajectory(
    path: pathlib.Path, points: Mapping[str, np.ndarray], tap: str
) -> None:
    """Draws how denoising moves features, one panel for each step.

    The plane is that of the first two principal components of the teacher's features.

    Args:
      path: the PNG file to write.
      points: points of n examples: ``teacher`` ``[n, 2]``, ``denoised`` ``[n, 2]`` and
        ``steps`` ``[num_steps + 1, n, 2]``, from the noise-matched student to the last
        denoising step.
      tap: name of the tap.
    """
    steps = points["steps"]
    panels = [("noise-matched student", steps[0])]
    panels += [(f"step {i}", step) for i, step in enumerate(steps[1:], 1)]
    panels.append(("after projection", points["denoised"]))
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = subplots(
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
    # All points lie on a line if there is only one example or one channel.
    margin = np.maximum(0.1 * (high - low), 1e-6 + 1e-3 * np.abs(high))
    for axis, (title, position) in zip(axes.flat, panels, strict=False):
        axis.scatter(*points["teacher"].T, s=6, color=COLOURS["teacher"], alpha=0.35)
        axis.scatter(*position.T, s=6, color=COLOURS["denoised"], alpha=0.7)
        distance = np.linalg.norm(position - points["teacher"], axis=1).mean()
        axis.set_title(f"{title}, distance {distance:.2f}", fontsize=9)
        axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(f"{literal(tap)}: denoising (colour) towards the teacher (grey)")
    save_figure(figure, path)


@defaults()
def draw_comparison(
    path: pathlib.Path,
    points: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    headline: str,
    teacher: float | None,
) -> None:
    """Draws the final headline score of each run against the time of its training.

    A small marker is a run, that is a seed; a large one is the mean of a method.

    Args:
      path: the PNG file to write.
      points: seconds and score of each run, by method and budget. A score that is
        undefined has no marker.
      headline: name of the score.
      teacher: the teacher's score, a horizontal line; or None.
    """
    figure, axis = subplots(figsize=(7.2, 4.4))
    budgets = list(dict.fromkeys(b for by_budget in points.values() for b in by_budget))
    for number, (method, by_budget) in enumerate(points.items()):
        for budget, runs in by_budget.items():
            drawn = np.array([run for run in runs if np.isfinite(run[1])])
            if not len(drawn):
                continue
            style = {"color": f"C{number % 10}", "marker": "os"[budgets.index(budget)]}
            label = method if len(budgets) == 1 else f"{method}, equal {budget}"
            axis.scatter(*drawn.T, s=12, alpha=0.5, **style)
            axis.scatter(*drawn.mean(0), s=70, label=literal(label), **style)
    if teacher is not None:
        axis.axhline(teacher, color=COLOURS["teacher"], ls="--", label="teacher")
    axis.set(xlabel="seconds of training", ylabel=literal(headline))
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    save_figure(figure, path)


def draw_plot(
    folder: pathlib.Path, name: str, draw: Callable[..., None], *arguments: Any
) -> list[pathlib.Path]:
    """Draws one plot and returns its file, or no file if that fails.

    Args:
      folder: directory of the plot.
      name: name of the file without its ending.
      draw: function ``(path, *arguments)`` that draws.
      *arguments: further arguments of the function.
    """

    def drawn() -> list[pathlib.Path]:
        draw(folder / f"{name}.png", *arguments)
        return [folder / f"{name}.png"]

    return draw_files(f"plot {name}", drawn)
