"""Writes the report of a run: plots, and one HTML page that needs no network."""

import base64
import html
import json
import pathlib
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...io.best_effort import noting
from ...io.drawing import draw_files
from ...tasks import Evidence, Task
from ...tasks.task import Meta
from ..workdir.directory import read_json_object, write_whole
from . import plots
from .examples import merge_examples
from .metrics import read_rows
from .summary import format_table

STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto;
padding: 0 1em; color: #222 } img { max-width: 100% } pre { overflow-x: auto;
background: #f6f6f6; padding: 1em; font-size: 13px } table { border-collapse: collapse }
td, th { padding: .3em 1em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }"""


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
        figures.extend(_plot(folder, name, draw, *arguments))

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
        for tap, points in trajectories.items():
            if gamma_rows := [r for r in rows if f"gamma/{tap}/histogram" in r]:
                add(f"gamma_{tap}", plots.draw_gamma, gamma_rows, tap)
            if all(np.isfinite(p).all() for p in points.values()):
                add(f"trajectory_{tap}", plots.draw_trajectory, points, tap)
            else:
                notes.append(f"{tap}: denoising is not finite and not drawn.")
        figures += draw_files("figures of the task", draw, folder)
    body = [
        _html_table(
            [("", "value"), *((k, _format_cell(v)) for k, v in result.items())]
        ),
        *map(_html_image, figures),
        *map(_html_line, notes),
        f"<h2>Sizes and taps</h2><pre>{html.escape(summary_text)}</pre>",
        _html_config(workdir),
    ]
    _write_page(workdir / "report.html", f"{result['name']}: {result['method']}", body)


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


def write_comparison(
    workdir: pathlib.Path,
    results: Sequence[Mapping[str, Any]],
    show: Callable[[pathlib.Path, Mapping[str, Any]], Sequence[pathlib.Path]],
) -> str:
    """Writes the report of a comparison: a table of its runs, and plots.

    Args:
      workdir: directory of the comparison, with a folder for each method.
      results: the content of each run's ``summary.json``.
      show: ``(folder, examples) -> files``, draws the figures of examples in a folder.

    Returns:
      The table as text.
    """
    # Undefined numbers are null in JSON.
    results = [{k: np.nan if v is None else v for k, v in r.items()} for r in results]
    headline = results[0]["headline"]
    final, best = f"final_{headline}", f"best_{headline}"
    curves = {
        r["method"]: read_rows_with(workdir / r["method"], f"eval/{headline}")
        for r in results
    }
    teacher_key = f"teacher_{headline}"
    teacher = next((r[teacher_key] for r in results if teacher_key in r), None)
    folder = workdir / "plots"
    base = next((r[final] for r in results if r["method"] == "none"), None)
    rows = [("method", headline, "best", "minus none", "images/s")]
    for r in results:
        gain = "" if base is None else f"{r[final] - base:+.4f}"
        rate = f"{r['images_per_second']:.0f}"
        rows.append((r["method"], f"{r[final]:.4f}", f"{r[best]:.4f}", gain, rate))
    if teacher is not None:
        rows.append(("teacher", f"{teacher:.4f}", "", "", ""))
    examples = merge_examples(workdir, [r["method"] for r in results])
    with noting() as notes:
        figures = _plot(folder, "comparison", plots.draw_comparison, results, headline)
        figures += _plot(folder, "score", plots.draw_scores, curves, headline, teacher)
        figures += draw_files("figures of examples", show, folder, examples)
    links = "".join(map(_html_link, (r["method"] for r in results)))
    body = [
        _html_table(rows),
        *map(_html_image, figures),
        *map(_html_line, notes),
        f"<h2>Runs</h2><ul>{links}</ul>",
        "<p>One seed: repeat with others before reading much into small gaps.</p>",
    ]
    _write_page(workdir / "report.html", f"{results[0]['name']}: comparison", body)
    return format_table(rows)


def _plot(
    folder: pathlib.Path, name: str, draw: Callable[..., None], *arguments: Any
) -> list[pathlib.Path]:
    """Draws one plot and returns its file, or no file if that fails."""

    def drawn() -> list[pathlib.Path]:
        draw(folder / f"{name}.png", *arguments)
        return [folder / f"{name}.png"]

    return draw_files(f"plot {name}", drawn)


def _format_cell(value: Any) -> str:
    if value is None:
        return "undefined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    header, *body_rows = rows
    line = lambda cells, tag: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in body_rows)
    return f"<table><tr>{line(header, 'th')}</tr>{body}</table>"


def _html_image(path: pathlib.Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    return f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>'


def _html_line(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _html_link(method: str) -> str:
    target = html.escape(urllib.parse.quote(method, errors="replace"))
    return f'<li><a href="{target}/report.html">{html.escape(method)}</a></li>'


def _html_config(workdir: pathlib.Path) -> str:
    text = json.dumps(read_json_object(workdir / "config.json"), indent=2)
    return f"<details><summary>Config</summary><pre>{html.escape(text)}</pre></details>"


def _write_page(path: pathlib.Path, title: str, body: Sequence[str]) -> None:
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{''.join(body)}</body></html>\n"
    )
    write_whole(path, page)
