"""Measures the time of a training step of cheaper variants, in turns with ``none``.

    NPROC=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 taskset -c 0 \\
        python experiments/2026-12-01_denoiser/step_times.py small

``small`` is the student of 4-4-8-8 channels, ``large`` that of 16-16-16-28. Nothing
else may run on the machine meanwhile. Each variant adds a row to ``step_times.jsonl``:
milliseconds of its step and of one of ``none`` in the same rounds, teacher included. A
call skips the variants that are there.
"""

import json
import pathlib
import sys

from diffkd_jax.configs import quickstart

from diffkd_jax.config.resolve import resolve
from diffkd_jax.train.build import build
from diffkd_jax.train.commands.step_times import measure_step

FILE = pathlib.Path(__file__).parent / "step_times.jsonl"
STUDENTS = {"small": (4, 4, 8, 8), "large": (16, 16, 16, 28)}
# Options of the method by variant; both taps are distilled.
VARIANTS = {
    "paper": {},
    "latent 8": {"latent_channels": 8},
    "latent 16": {"latent_channels": 16},
    "width 0.5": {"predictor_width": 0.5},
    "steps 3": {"num_steps": 3},
    "time_aware": {"time_aware": True},
    "steps 1": {"num_steps": 1},
    "width 0.25": {"predictor_width": 0.25},
    "latent 32": {"latent_channels": 32},
    "latent 8, steps 3": {"latent_channels": 8, "num_steps": 3},
}


def build_run(who: str, options: dict | None):
    """Returns the built run of a student; without options, that of ``none``."""
    config = quickstart.get_config()
    config.num_devices = 1
    config.student.model = "resnet8"
    config.student.options = {"channels": STUDENTS[who]}
    config.teacher.model = "resnet14"
    config.teacher.options = {"channels": (16, 16, 32, 32)}
    config.method = "none" if options is None else "diffkd"
    config.methods = {"diffkd": options or {}}
    return build(resolve(config))


def main(who: str) -> None:
    """Measures the variants of one student that have no row yet."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    done = {(row["student"], row["variant"]) for row in map(json.loads, lines)}
    reference = build_run(who, None)
    for variant, options in VARIANTS.items():
        if (who, variant) not in done:
            times = measure_step(build_run(who, options), reference)
            step, none = (round(1000 * seconds, 3) for seconds in times)
            row = {"student": who, "variant": variant, "step": step, "none": none}
            print(row, round(step / none, 2), flush=True)
            with FILE.open("a") as stream:
                stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
