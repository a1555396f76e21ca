"""DiffKD and what is cheaper, as flags; the runs of the study, one after the other.

    python experiments/2026-11-26_cheaper/variants.py RUNS TEACHER --seeds 0 1 2

Config, teacher and student are those of ``2026-11-23_fashion_mnist``, with half as many
epochs. A workdir ``RUNS/<variant>-<seed>`` that is finished is left alone, one that is
not goes on.
"""

import argparse
import pathlib
import subprocess
import sys

CONFIG = pathlib.Path(__file__).parents[1] / "2026-11-23_fashion_mnist/config.py"
EPOCHS = 20.0
OF_METHOD = "methods.diffkd"
VARIANTS = {
    "none": {"method": "none"},
    "diffkd": {},
    "steps_3": {f"{OF_METHOD}.num_steps": 3},
    "steps_1": {f"{OF_METHOD}.num_steps": 1},
    "inputs": {f"{OF_METHOD}.gradient": "inputs"},
    "straight": {f"{OF_METHOD}.gradient": "straight"},
    "every_2": {"train.distill_every": 2},
    "every_5": {"train.distill_every": 5},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path)
    parser.add_argument("teacher", help="workdir or file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    asked = parser.parse_args()
    for seed in asked.seeds:
        for name in asked.variants:
            fields = {"seed": seed, "train.epochs": EPOCHS, **VARIANTS[name]}
            fields["teacher.init"] = asked.teacher
            flags = [f"--config.{field}={value}" for field, value in fields.items()]
            command = [sys.executable, "-m", "diffkd_jax.main", f"--config={CONFIG}"]
            workdir = asked.runs / f"{name}-{seed}"
            subprocess.run([*command, *flags, f"--workdir={workdir}"], check=True)


if __name__ == "__main__":
    main()
