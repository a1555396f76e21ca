"""Table and plots of the study from its runs.

    PYTHONPATH=. python experiments/2026-11-26_scenes/summarise.py RUNS

``RUNS`` holds a workdir ``<method>-<seed>`` for each run.
"""

import pathlib
import sys

from diffkd_jax.data.sources.scenes import CLASSES, PALETTE
from diffkd_jax.tasks.segmentation.plots import show
from experiments.scene_study import write

if __name__ == "__main__":
    write(
        pathlib.Path(__file__).parent,
        pathlib.Path(sys.argv[1]),
        order=["none", "cwd", "dist", "diffkd_map"],
        headline="miou",
        fields={"miou": "mIoU"},
        bases=("none", "dist"),
        show=show,
        meta={"palette": PALETTE, "num_classes": len(CLASSES)},
    )
