"""Writes the tables and figures of the study from ``results.jsonl``.

    PYTHONPATH=. python experiments/2026-12-01_equal_time/summarise.py

Prints the tables for the README as Markdown, and draws ``plots/length.png`` (score
against length without distillation) and ``plots/time.png`` (score against time).
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from stages import HERE, ROWS, SETTINGS_OF, TIMES, chosen_trial, read_rows, trials

from diffkd_jax.train.outputs.paired_statistics import pair_by_seed

matplotlib.use("Agg")
from matplotlib import pyplot

BASES = ("none", "kd", "projection")
Table = dict[str, dict[int, float]]


def main() -> None:
    """Prints all tables and draws all figures."""
    print_lengths("teacher", read_rows("teacher"))
    print_lengths("student of none", read_rows("length"))
    draw_lengths(read_rows("length"))
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    for who, rows in times.items():
        print(f"\n| {who}: row | ms a step | of none |\n|---|---|---|")
        for row, (seconds, reference) in rows.items():
            print(f"| {row} | {1000 * seconds:.1f} | {seconds / reference:.2f} |")
        print_trials(who)
        for budget in ("steps", "time"):
            results = read_rows(budget)
            print_scores(f"{who}, equal {budget}", by_row(who, results))
        draw_times(who, rows)


def print_lengths(title: str, results: Iterable[Mapping[str, Any]]) -> None:
    """Prints the score on the validation images for each length and seed."""
    print(f"\n| {title}: epochs | seed | top-1 % (valid) |\n|---|---|---|")
    for row in sorted(results, key=lambda row: (row["seed"], row["epochs"])):
        print(f"| {row['epochs']:g} | {row['seed']} | {100 * row['final_top1']:.2f} |")


def print_trials(who: str) -> None:
    """Prints the scores of all trials; the chosen one is bold."""
    print(f"\n| {who}: row | trials, top-1 % (valid) |\n|---|---|")
    for row in (row for row in ROWS if row not in SETTINGS_OF):
        scores = {
            result["trial"]: f"{100 * result['final_top1']:.2f}"
            for result in read_rows("select")
            if (result["who"], result["row"]) == (who, row)
        }
        if len(scores) == len(trials(row)):
            best = chosen_trial(who, row)
            scores[best] = f"**{scores[best]}**"
        cells = ", ".join(f"{trial} {score}" for trial, score in scores.items())
        print(f"| {row} | {cells} |")


def by_row(who: str, results: Iterable[Mapping[str, Any]]) -> Table:
    """Returns scores in percent by row and seed."""
    table: Table = {}
    for result in results:
        if result["who"] == who:
            scores = table.setdefault(result["row"], {})
            scores[result["seed"]] = 100 * result["final_top1"]
    return {row: table[row] for row in ROWS if row in table}


def print_scores(title: str, table: Table) -> None:
    """Prints n, mean, deviation and paired differences with their p-values."""
    against = " | ".join(f"minus {base} (p exact, p t)" for base in BASES)
    print(f"\n| {title}: row | n | top-1 % mean | std | {against} |")
    print("|---|---|---|---|" + "---|" * len(BASES))
    for row, scores in table.items():
        values = np.array(list(scores.values()))
        spread = f"{values.std(ddof=1):.2f}" if len(values) > 1 else ""
        cells = [row, str(len(values)), f"{values.mean():.2f}", spread]
        for base in BASES:
            seeds = sorted(set(scores) & set(table.get(base, {})))
            if row == base or len(seeds) < 2:
                cells.append("")
                continue
            pair = pair_by_seed(
                {seed: scores[seed] for seed in seeds},
                {seed: table[base][seed] for seed in seeds},
            )
            cells.append(
                f"{pair.mean:+.2f} +- {pair.standard_error:.2f} "
                f"({pair.p_sign_flip:.3f}, {pair.p_t:.3f})"
            )
        print(f"| {' | '.join(cells)} |")


def draw_lengths(results: list[dict[str, Any]]) -> None:
    """Draws the score without distillation against the length of the training."""
    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for seed in sorted({row["seed"] for row in results}):
        points = sorted(
            (row["epochs"], 100 * row["final_top1"])
            for row in results
            if row["seed"] == seed
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=f"seed {seed}")
    axes.set(xscale="log", xlabel="epochs", ylabel="top-1 % on validation images")
    axes.legend()
    (HERE / "plots").mkdir(exist_ok=True)
    figure.savefig(HERE / "plots/length.png", dpi=120)
    pyplot.close(figure)


def draw_times(who: str, times: Mapping[str, tuple[float, float]]) -> None:
    """Draws mean scores against seconds of training, for both budgets."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for budget, marker in (("steps", "o"), ("time", "s")):
        results = [row for row in read_rows(budget) if row["who"] == who]
        for row, scores in by_row(who, results).items():
            steps = next(r["steps"] for r in results if r["row"] == row)
            values = list(scores.values())
            axes.errorbar(
                steps * times[row][0] / 60,
                np.mean(values),
                np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0,
                marker=marker,
                label=f"{row}, equal {budget}",
            )
    axes.set(xlabel="minutes of training", ylabel="top-1 % on test images")
    if axes.has_data():
        axes.legend(fontsize="x-small", ncols=2)
        figure.savefig(HERE / f"plots/time_{who}.png", dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
