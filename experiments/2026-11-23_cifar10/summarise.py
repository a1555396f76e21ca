"""Table and plot of the study from ``results.jsonl``.

PYTHONPATH=. python experiments/2026-11-23_cifar10/summarise.py
"""

import pathlib

from run import METHODS

from diffkd_jax.io import valid_json
from diffkd_jax.train.outputs import plots
from experiments.tables import means, table

HERE = pathlib.Path(__file__).parent


def main():
    lines = (HERE / "results.jsonl").read_text().splitlines()
    rows = [valid_json.undefined_as_nan(valid_json.loads(line)) for line in lines]
    print(table(rows, "final_top1", METHODS))
    plots.draw_comparison(
        HERE / "plots/comparison.png", means(rows, "final_top1", METHODS), "top1"
    )


if __name__ == "__main__":
    main()
