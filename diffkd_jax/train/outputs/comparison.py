"""Writes the report of a comparison: one table, one figure, and a file for programs."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from ...io import valid_json
from ...io.best_effort import noting
from ...io.drawing import draw_files
from ..workdir.directory import REPORT, write_whole
from . import plots
from .comparison_rows import (
    ComparedRun,
    Row,
    as_number,
    is_variant,
    row_numbers,
    summarise_runs,
)
from .examples import merge_examples
from .html_page import html_image, html_line, html_link, html_table, write_page
from .paired_statistics import MOST_EXACT
from .plots import draw_plot
from .report import read_rows_with
from .summary import format_table

TABLE, ROWS = "comparison.md", "comparison.jsonl"
ENOUGH_SEEDS = 5


class TeacherFacts(NamedTuple):
    """The facts about the teacher that a comparison states.

    Attributes:
      score: its headline score.
      seconds: time of its training in seconds; None if it was not trained here.
    """

    score: float
    seconds: float | None


def write_comparison(
    workdir: pathlib.Path,
    name: str,
    runs: Sequence[ComparedRun],
    costs: Mapping[str, float],
    teacher: TeacherFacts | None,
    show: Callable[[pathlib.Path, Mapping[str, Any]], Sequence[pathlib.Path]],
    left_out: Sequence[str] = (),
) -> str:
    """Writes the report of a comparison: a table of its runs, and plots.

    ``comparison.md`` holds the table, ``comparison.jsonl`` the same numbers in full, a
    line for each row and budget, ``plots/comparison.png`` the figure, and
    ``report.html`` all of it.

    Args:
      workdir: directory of the comparison, with a folder for each run.
      name: name of the comparison.
      runs: the runs.
      costs: time of a step as a multiple of the reference's, by row. The first row is
        the reference.
      teacher: what is known of the teacher; None without one.
      show: ``(folder, examples) -> files``, draws the figures of examples in a folder.
      left_out: folders of finished runs that are not among ``runs``.

    Returns:
      The table as text.
    """
    headline, rows = runs[0].result["headline"], summarise_runs(runs, costs)
    table = tabulate(rows, headline, teacher)
    lines = explain(rows, teacher, left_out)
    write_whole(workdir / TABLE, _as_markdown(name, table, lines))
    write_whole(
        workdir / ROWS,
        "".join(f"{valid_json.dumps(row_numbers(row), default=str)}\n" for row in rows),
    )
    first = [r for r in runs if (r.seed, r.budget) == (runs[0].seed, runs[0].budget)]
    curves = {
        run.folder: read_rows_with(workdir / run.folder, f"eval/{headline}")
        for run in first
    }
    score = None if teacher is None else teacher.score
    points: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for run in runs:
        by_budget = points.setdefault(run.row, {})
        point = (run.seconds, as_number(run.result[f"final_{headline}"]))
        by_budget.setdefault(run.budget, []).append(point)
    examples = merge_examples(workdir, [run.folder for run in first])
    folder = workdir / "plots"
    with noting() as notes:
        arguments = (points, headline, score)
        figures = draw_plot(folder, "comparison", plots.draw_comparison, *arguments)
        figures += draw_plot(
            folder, "score", plots.draw_scores, curves, headline, score
        )
        figures += draw_files("figures of examples", show, folder, examples)
    links = "".join(
        html_link(folder) for folder in dict.fromkeys(r.folder for r in runs)
    )
    body = [
        html_table(table),
        *map(html_line, lines),
        *map(html_image, figures),
        *map(html_line, notes),
        f"<h2>Runs</h2><ul>{links}</ul>",
    ]
    write_page(workdir / REPORT, f"{name}: comparison", body)
    return "\n".join([format_table(table), *lines])


def tabulate(
    rows: Sequence[Row], headline: str, teacher: TeacherFacts | None
) -> list[tuple[str, ...]]:
    """Returns the cells of the table: a line for each row, columns for each budget.

    Args:
      rows: the statistics.
      headline: name of the score.
      teacher: what is known of the teacher; None without one.
    """
    reference = next(row.name for row in rows if row.difference is None)
    budgets = list(dict.fromkeys(row.budget for row in rows))
    by_key = {(row.name, row.budget): row for row in rows}
    header = ["method", "n"]
    for budget in budgets:
        prefix = "" if len(budgets) == 1 else f"equal {budget}: "
        header += [f"{prefix}{headline}", "std", f"minus {reference}", "p"]
    table = [(*header, "steps", "cost of a step")]
    for name in dict.fromkeys(row.name for row in rows):
        by_budget = [by_key.get((name, budget)) for budget in budgets]
        some = [row for row in by_budget if row is not None]
        cells = [name, str(len(some[0].scores))]
        for row in by_budget:
            cells += ["not run", "", "", ""] if row is None else _cells(row)
        steps = ", ".join(dict.fromkeys(str(row.steps) for row in some))
        table.append((*cells, steps, f"{some[0].cost:.2f}"))
    if teacher is not None:
        score = ["", f"{teacher.score:.4f}"]
        table.append(("teacher", *score, *[""] * (len(header) - 3), "", ""))
    return table


def _cells(row: Row) -> list[str]:
    """Returns mean, standard deviation, difference and p-value as texts."""
    difference = row.difference
    cells = [f"{row.mean:.4f}", "" if row.std is None else f"{row.std:.4f}"]
    if difference is None:
        return [*cells, "", ""]
    has_error = row.std is not None and not np.isnan(difference.mean)
    error = f" +- {difference.standard_error:.4f}" if has_error else ""
    p_value = f"{difference.p_value:.3g}" if has_error else ""
    return [*cells, f"{difference.mean:+.4f}{error}", p_value]


def explain(
    rows: Sequence[Row], teacher: TeacherFacts | None, left_out: Sequence[str] = ()
) -> list[str]:
    """Returns the lines below the table, on how its numbers were computed.

    Args:
      rows: the statistics.
      teacher: what is known of the teacher; None without one.
      left_out: folders of finished runs that are not in the table.
    """
    n = len(rows[0].scores)
    lines = ["Differences are paired by seed, with their standard error."]
    lines += dict.fromkeys(_describe_variant(row) for row in rows if is_variant(row))
    if 1 < n <= MOST_EXACT:
        lines.append(
            f"p: exact two-sided sign-flip test; with {n} seeds it is at least "
            f"{2.0 ** (1 - n):.3g}."
        )
    elif n > 1:
        lines.append("p: two-sided paired t-test.")
    if n < ENOUGH_SEEDS:
        lines.append(
            f"Seeds: {n}. Repeat with at least {ENOUGH_SEEDS} before you read much "
            "into small gaps (--config.comparison.seeds=0,1,2,3,4)."
        )
    lines.append(
        "Cost of a step: its time, with the teacher's forward pass, as a multiple of "
        "the reference's; reading images and evaluation are not counted."
    )
    if teacher is not None:
        spent = "unknown" if teacher.seconds is None else f"{teacher.seconds:.0f} s"
        lines.append(f"Training of the teacher, which is not counted: {spent}.")
    if left_out:
        lines.append(
            f"Left out: {', '.join(left_out)}. The last command did not name their "
            "method, seed or budget. Name all of them in --config.compare, "
            "--config.comparison.seeds and --config.comparison.budget to have them "
            "here; finished runs are not repeated."
        )
    return lines


def _describe_variant(row: Row) -> str:
    """Returns the line that says what a variant changes."""
    method, *changed = flatten_dict(dict(row.changes), sep=".").items()
    texts = [f"{path}={value}" for path, value in changed]
    return f"{row.name}: {method[1]} with {', '.join(texts) or 'nothing changed'}."


def _as_markdown(
    name: str, table: Sequence[Sequence[str]], lines: Sequence[str]
) -> str:
    """Returns the table and its explanation as Markdown."""
    header, *body = ([cell.replace("|", "\\|") for cell in row] for row in table)
    rows = [header, ["---"] * len(header), *body]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    paragraphs = "\n".join(lines)
    return f"# {name}: comparison\n\n{text}\n\n{paragraphs}\n"
