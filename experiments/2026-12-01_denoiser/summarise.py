"""Prints the tables of the README and draws its figure, from ``results.jsonl``.

python experiments/2026-12-01_denoiser/summarise.py
"""

import collections
import json
import pathlib

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = pathlib.Path(__file__).parent
TITLES = {"features": "features, 7x7x32", "logits": "logits, 10"}


def read_groups() -> dict[tuple, list[dict]]:
    """Returns the rows of all seeds by tap, optimizer, length and form."""
    groups = collections.defaultdict(list)
    for line in (HERE / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        key = (row["tap"], row.get("optimizer", ""), row.get("steps", 0), row["form"])
        groups[key].append(row)
    return dict(sorted(groups.items()))


def mean_of(rows: list[dict], field: str) -> np.ndarray:
    """Returns the mean of a field over the seeds."""
    return np.mean([row[field] for row in rows], 0)


def print_errors(groups: dict[tuple, list[dict]]) -> None:
    """Prints the errors of the predicted noise by level."""
    levels = next(iter(groups.values()))[0]["levels"]
    for tap in TITLES:
        print(f"\n{TITLES[tap]}: {levels}")
        for (of, name, steps, form), rows in groups.items():
            if of == tap:
                losses = [row.get("train_loss", np.nan) for row in rows]
                spread = f"{np.mean(losses):.3f} ({min(losses):.3f}-{max(losses):.3f})"
                for kind in ("noise", "mixed", "origin"):
                    values = " | ".join(f"{v:.3f}" for v in mean_of(rows, kind))
                    print(f"{form} | {name} | {steps} | n={len(rows)} | {spread} | "
                          f"{kind} | {values}")  # fmt: skip


def print_denoised(groups: dict[tuple, list[dict]]) -> None:
    """Prints what five DDIM steps do, by start."""
    for (tap, name, steps, form), rows in groups.items():
        print(f"\n{tap}, {form}, {name}, {steps} steps, n={len(rows)}")
        for start in rows[0]["denoised"]:
            values = np.mean([row["denoised"][start] for row in rows], 0)
            print(f"{start} | " + " | ".join(f"{v:.3f}" for v in values))


def draw(groups: dict[tuple, list[dict]]) -> None:
    """Draws the error of the predicted noise against the level."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, (tap, title) in zip(axes, TITLES.items(), strict=True):
        chosen = {k: v for k, v in groups.items() if k[0] == tap}
        for (_, name, steps, form), rows in chosen.items():
            if form != "linear" and (name, steps) != ("sgd 0.1", 5000):
                continue
            label = "best linear" if form == "linear" else form
            style = "k--" if form == "linear" else "o-"
            axis.plot(rows[0]["levels"], mean_of(rows, "noise"), style, label=label)
        axis.axhline(1.0, color="grey", lw=0.8, label="predict zero")
        axis.set(title=title, xlabel="time step t")
    axes[0].set_ylabel("mean squared error of the noise")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "noise_errors.png", dpi=110)


if __name__ == "__main__":
    all_groups = read_groups()
    print_errors(all_groups)
    print_denoised(all_groups)
    draw(all_groups)
