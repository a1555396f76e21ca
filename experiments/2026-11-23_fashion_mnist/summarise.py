"""Tables and plots of the study from its runs.

    PYTHONPATH=. python experiments/2026-11-23_fashion_mnist/summarise.py \
        RUNS [IDX_DIRECTORY]

``RUNS`` holds a workdir ``<method>-<seed>`` for each run. With the directory of full
Fashion-MNIST idx files, the exported students are also evaluated on the 8,000 official
test pictures that are not in the embedded set, which no run has seen.
"""

import pathlib
import shutil
import sys

from diffkd_jax.io import valid_json
from diffkd_jax.train.outputs import plots
from experiments.fashion_unseen import accuracy, unseen_pictures
from experiments.tables import means, table

HERE = pathlib.Path(__file__).parent
ORDER = ["none", "kd", "mse", "dist", "diffkd_features", "diffkd_logits", "diffkd"]


def collect(runs, pictures):
    rows = []
    for file in sorted(runs.glob("*-*/summary.json")):
        row = valid_json.undefined_as_nan(valid_json.loads(file.read_text()))
        if pictures is not None:
            row["unseen_top1"] = accuracy(file.parent, pictures)
        rows.append(row)
    return rows


def main(runs, idx_directory=None):
    runs = pathlib.Path(runs)
    pictures = unseen_pictures(idx_directory) if idx_directory else None
    rows = collect(runs, pictures)
    keep = ["method", "seed", "final_top1", "final_loss", "best_top1", "unseen_top1"]
    lines = [valid_json.dumps({k: row[k] for k in keep if k in row}) for row in rows]
    (HERE / "results.jsonl").write_text("\n".join(lines) + "\n")
    print("Embedded test set, 2,000 pictures\n\n" + table(rows, "final_top1", ORDER))
    if pictures is not None:
        print("\n8,000 further test pictures\n\n" + table(rows, "unseen_top1", ORDER))
        if (runs / "teacher").exists():
            print(f"\nteacher {100 * accuracy(runs / 'teacher', pictures):.2f} %")
    plots_from = runs / "diffkd-0" / "plots"
    (HERE / "plots").mkdir(exist_ok=True)
    for name in ("trajectory_features", "trajectory_logits", "gamma_logits"):
        shutil.copy(plots_from / f"{name}.png", HERE / "plots")
    found = means(rows, "final_top1", ORDER, least=2)
    plots.draw_comparison(HERE / "plots/comparison.png", found, "top1")


if __name__ == "__main__":
    main(*sys.argv[1:])
