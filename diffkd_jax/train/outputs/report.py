"""Writes the report of a run: plots, and one HTML page that needs no network."""

import html
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...io.best_effort import noting
from ...io.drawing import draw_files
from ...tasks import Evidence, Task
from ...tasks.task import Meta
from ..workdir.directory import read_json_object
from . import plots
from .html_page import html_image, html_line, html_table, write_page
from .metrics import read_rows
from .plots import draw_plot


def read_rows_with(workdir: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Returns the rows of a run's ``metrics.jsonl`` that hold a value of some name.

    Args:
      workdir: directory of the run.
      name: name of the value.

    >>> read_rows_with(pathlib.Path("no_run"), "loss/total")
    []
    """
    return [row for row in read_rows(workdir / "metrics.jsonl") if name in row]


def read_evaluations(
    workdir: pathlib.Path, headline: str
) -> dict[int, dict[str, float]]:
    """Returns the scores of a run's evaluations by step, from ``metrics.jsonl``.

    Args:
      workdir: directory of the run.
      headline: name of the task's headline score; a row with it is an evaluation.

    >>> read_evaluations(pathlib.Path("no_run"), "score")
    {}
    """
    return {
        row["step"]: {
            name.removeprefix("eval/"): value
            for name, value in row.items()
            if name.startswith("eval/")
        }
        for row in read_rows_with(workdir, f"eval/{headline}")
    }


def write_run(
    workdir: pathlib.Path,
    result: Mapping[str, Any],
    *,
    summary_text: str,
    trajectories: Mapping[str, Mapping[str, np.ndarray]],
    draw: Callable[[pathlib.Path], Sequence[pathlib.Path]],
) -> None:
    """Draws the plots of a finished run and writes its ``report.html``.

    If a figure fails, the report says so in a line.

    Args:
      workdir: directory of the run.
      result: the content of its ``summary.json``.
      summary_text: its tables of sizes and taps, from
        :func:`diffkd_jax.train.outputs.summary.describe_run`.
      trajectories: points of each tap that denoises, from
        :func:`diffkd_jax.train.outputs.trajectories.trace_denoising`.
      draw: ``folder -> files``, draws the task's figures in a folder.
    """
    folder, headline = workdir / "plots", result["headline"]
    rows = read_rows_with(workdir, "loss/total")
    figures: list[pathlib.Path] = []

    def add(name: str, draw: Callable[..., None], *arguments: Any) -> None:
        figures.extend(draw_plot(folder, name, draw, *arguments))

    curve = {result["method"]: read_rows_with(workdir, f"eval/{headline}")}
    with noting() as notes:
        add(
            "score",
            plots.draw_scores,
            curve,
            headline,
            result.get(f"teacher_{headline}"),
        )
        if rows:
            add("losses", plots.draw_losses, rows)
        if compared := read_rows_with(workdir, "norm/task_gradient"):
            add("gradients", plots.draw_gradients, compared)
        for tap, points in trajectories.items():
            if gamma_rows := [r for r in rows if f"gamma/{tap}/histogram" in r]:
                add(f"gamma_{tap}", plots.draw_gamma, gamma_rows, tap)
            if all(np.isfinite(p).all() for p in points.values()):
                add(f"trajectory_{tap}", plots.draw_trajectory, points, tap)
            else:
                notes.append(f"{tap}: denoising is not finite and not drawn.")
        figures += draw_files("figures of the task", draw, folder)
    body = [
        html_table([("", "value"), *((k, _format_cell(v)) for k, v in result.items())]),
        *map(html_image, figures),
        *map(html_line, notes),
        f"<h2>Sizes and taps</h2><pre>{html.escape(summary_text)}</pre>",
        _html_config(workdir),
    ]
    write_page(workdir / "report.html", f"{result['name']}: {result['method']}", body)


def draw_task_figures(
    task: Task,
    meta: Meta,
    evidence: Evidence | None,
    examples: Mapping[str, Any],
    folder: pathlib.Path,
) -> list[pathlib.Path]:
    """Draws the task's figures of an evaluation and of examples.

    Args:
      task: the task.
      meta: description of the data.
      evidence: evidence of the last evaluation; None to draw nothing of it.
      examples: examples with predictions; empty to draw none.
      folder: directory of the figures.

    Returns:
      The files written.
    """
    files: list[pathlib.Path] = []
    if evidence is not None and task.draw is not None:
        files += draw_files("draw of the task", task.draw, folder, evidence, meta)
    if examples and task.show is not None:
        files += draw_files("show of the task", task.show, folder, examples, meta)
    return files


def _format_cell(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _html_config(workdir: pathlib.Path) -> str:
    text = json.dumps(read_json_object(workdir / "config.json"), indent=2)
    return f"<details><summary>Config</summary><pre>{html.escape(text)}</pre></details>"
