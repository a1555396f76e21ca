"""Tables and plots of the study from its runs.

    PYTHONPATH=. python experiments/2026-11-26_scene_boxes/summarise.py RUNS

``RUNS`` holds a workdir ``<method>-<seed>`` for each run.
"""

import pathlib
import sys

from diffkd_jax.data.class_names import FASHION_CLASSES
from diffkd_jax.tasks.detection.plots import show
from experiments.scene_study import write

if __name__ == "__main__":
    write(
        pathlib.Path(__file__).parent,
        pathlib.Path(sys.argv[1]),
        order=["none", "mse_fpn", "fgd", "diffkd_fpn"],
        headline="ap",
        fields={"ap": "AP", "ap50": "AP50", "ap75": "AP75"},
        bases=("none", "mse_fpn"),
        show=show,
        meta={"class_names": FASHION_CLASSES, "num_classes": len(FASHION_CLASSES)},
    )
