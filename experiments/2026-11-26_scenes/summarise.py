"""Table and plots of the study from its runs.

    PYTHONPATH=. python experiments/2026-11-26_scenes/summarise.py RUNS

``RUNS`` holds a workdir ``<method>-<seed>`` for each run.
"""

import json
import pathlib
import sys

from diffkd_jax.data.scenes import CLASSES, PALETTE
from diffkd_jax.tasks.masks_drawn import show
from diffkd_jax.train import plots
from diffkd_jax.train.examples import compared_examples
from experiments.tables import means, table

HERE = pathlib.Path(__file__).parent
ORDER = ["none", "cwd", "dist", "diffkd_map"]
KEEP = ["method", "seed", "steps", "final_miou", "final_accuracy", "final_loss"]


def main(runs):
    runs = pathlib.Path(runs)
    files = sorted(runs.glob("*-*/summary.json"))
    rows = [json.loads(file.read_text()) for file in files]
    lines = [json.dumps({k: row[k] for k in KEEP}) for row in rows]
    (HERE / "results.jsonl").write_text("\n".join(lines) + "\n")
    print(table(rows, "final_miou", ORDER, "mIoU", ("none", "cwd")))
    print(f"\nteacher {100 * rows[0]['teacher_miou']:.2f} %")
    plots.comparison(
        HERE / "plots/comparison.png", means(rows, "final_miou", ORDER), "miou"
    )
    examples = compared_examples(runs, [f"{method}-0" for method in ORDER])
    meta = {"palette": PALETTE, "num_classes": len(CLASSES)}
    show(HERE / "plots", examples, meta)


if __name__ == "__main__":
    main(*sys.argv[1:])
