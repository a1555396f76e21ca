"""Reads the short runs of a probe, and writes its report."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.gradients import ALL
from ...io import valid_json
from ...io.best_effort import noting
from ..workdir.directory import (
    REPORT,
    SUMMARY,
    read_json_object,
    write_json,
    write_whole,
)
from . import plots
from .advice import Agreement, ProbedMethod, ProbeFacts, advise, median_of
from .comparison import ROWS
from .comparison_rows import as_number
from .html_page import html_image, html_line, html_table, write_page
from .plots import draw_plot
from .report import read_rows_with
from .summary import format_table

RESULT, TEXT = "probe.json", "probe.md"
RATIO, COSINE = "gradient_ratio/", "gradient_cosine/"


def read_methods(
    workdir: pathlib.Path,
    folders: Mapping[str, str],
    costs: Mapping[str, float],
    weights: Mapping[str, Mapping[str, Any]],
) -> dict[str, ProbedMethod]:
    """Reads the results of the short runs.

    Args:
      workdir: directory of their comparison.
      folders: folder of the first run of each method, for equal steps.
      costs: time of a step by method, as a multiple of that of ``none``.
      weights: weights of the losses, by method.

    Returns:
      The results by method.
    """
    lines = (workdir / ROWS).read_text().splitlines()
    rows = [valid_json.undefined_as_nan(json.loads(line)) for line in lines]
    by_key = {(row["method"], row["budget"]): row for row in rows}
    methods = {}
    for name, folder in folders.items():
        in_time = by_key.get((name, "time"), {})
        methods[name] = ProbedMethod(
            cost=costs[name],
            score=as_number(by_key[name, "steps"]["mean"]),
            score_in_time=as_number(in_time.get("mean")),
            steps_in_time=in_time.get("steps", 0),
            gradients=_read_gradients(workdir / folder, weights[name]),
        )
    return methods


def _read_gradients(
    workdir: pathlib.Path, weights: Mapping[str, Any]
) -> dict[str, Agreement]:
    """Returns how the gradients of a run agree with the task's, by loss.

    Losses that do not train the student are left out.
    """
    rows = read_rows_with(workdir, "norm/task_gradient")
    names = dict.fromkeys(n for row in rows for n in row if n.startswith(RATIO))
    gradients = {}
    for name in names:
        loss = name.removeprefix(RATIO)
        ratio = median_of([row.get(name, float("nan")) for row in rows])
        cosine = median_of([row.get(COSINE + loss, float("nan")) for row in rows])
        factors = [weights.get(n, 1.0) for n in (loss, loss.partition("/")[0])]
        weight = None
        if loss != ALL and not any(map(callable, factors)):
            weight = float(factors[0] * factors[1])
        if ratio != 0:
            gradients[loss] = Agreement(ratio, cosine, weight)
    return gradients


def read_teacher_score(workdirs: Sequence[pathlib.Path], headline: str) -> float:
    """Returns the score of the teacher that a finished run states; NaN without one.

    Args:
      workdirs: directories of finished runs.
      headline: name of the score.
    """
    for workdir in workdirs:
        score = read_json_object(workdir / SUMMARY).get(f"teacher_{headline}")
        if score is not None:
            return float(score)
    return float("nan")


def tabulate_probe(facts: ProbeFacts) -> list[tuple[str, ...]]:
    """Returns the cells of the table of a probe, the header first.

    Args:
      facts: what the probe measured.
    """
    none = facts.methods["none"]
    header = (
        *("method", "cost of a step", f"{facts.steps} steps: {facts.headline}"),
        *("minus none", f"equal time: {facts.headline}", "minus none", "steps"),
        *("gradient / task's", "cosine"),
    )
    number = lambda value, form: "" if value != value else format(value, form)
    table: list[tuple[str, ...]] = [header]
    for name, method in facts.methods.items():
        is_none = name == "none"
        both = method.gradients.get(ALL, Agreement(float("nan"), float("nan")))
        minus = method.score - none.score
        minus_in_time = method.score_in_time - none.score_in_time
        cells = (
            *(f"{method.cost:.2f}", number(method.score, ".4f")),
            *("" if is_none else number(minus, "+.4f"),),
            *(number(method.score_in_time, ".4f"),),
            *("" if is_none else number(minus_in_time, "+.4f"),),
            *(str(method.steps_in_time or ""),),
            *(number(both.ratio, ".3g"), number(both.cosine, ".2f")),
        )
        table.append((name, *cells))
    teacher = number(facts.teacher, ".4f")
    if teacher:
        table.append(("teacher", "", teacher, *[""] * (len(header) - 3)))
    return table


def write_probe(
    workdir: pathlib.Path,
    name: str,
    facts: ProbeFacts,
    notes: Sequence[str],
    folders: Mapping[str, str],
) -> str:
    """Writes ``probe.md``, ``probe.json`` and ``report.html``.

    Args:
      workdir: directory of the probe.
      name: name of the config.
      facts: what the probe measured.
      notes: sentences on how it was measured.
      folders: directory of the first run of each method, relative to the workdir.

    Returns:
      The text that was written.
    """
    table, advice = tabulate_probe(facts), advise(facts)
    lines = [f"{number}. {line}" for number, line in enumerate(advice, 1)]
    content = {
        **facts._asdict(),
        "noise": facts.noise,
        "methods": {
            method: {
                **result._asdict(),
                "gradients": {k: v._asdict() for k, v in result.gradients.items()},
            }
            for method, result in facts.methods.items()
        },
        "notes": list(notes),
        "advice": advice,
    }
    write_json(workdir / RESULT, content)
    rows = [" | ".join(cells) for cells in (table[0], ["---"] * len(table[0]))]
    rows += [" | ".join(cells) for cells in table[1:]]
    markdown = "\n".join(f"| {row} |" for row in rows)
    heading = "## What to try first"
    text = "\n\n".join(
        [f"# {name}: probe", "\n".join(notes), markdown, heading, "\n".join(lines)]
    )
    write_whole(workdir / TEXT, f"{text}\n")
    headline = facts.headline
    curves = {
        method: read_rows_with(workdir / folder, f"eval/{headline}")
        for method, folder in folders.items()
    }
    score = None if facts.teacher != facts.teacher else facts.teacher
    with noting() as faults:
        figures = draw_plot(
            workdir / "plots", "score", plots.draw_scores, curves, headline, score
        )
        for method, folder in folders.items():
            if compared := read_rows_with(workdir / folder, "norm/task_gradient"):
                arguments = (f"gradients_{method}", plots.draw_gradients, compared)
                figures += draw_plot(workdir / "plots", *arguments)
    body = [
        *map(html_line, notes),
        html_table(table),
        *map(html_line, lines),
        *map(html_image, figures),
        *map(html_line, faults),
    ]
    write_page(workdir / REPORT, f"{name}: probe", body)
    return "\n".join([*notes, format_table(table), *lines])
