"""What a step of each variant takes, beside one of DiffKD as it is.

    PYTHONPATH=. python experiments/2026-11-26_cheaper/step_times.py

On the study's networks, one batch of its pictures and a teacher of drawn weights; all
steps are timed in turn, round after round. Ratios are medians of those of the rounds,
the time is DiffKD's median times the ratio. Of ``every_k`` it is the mean of k steps.
"""

import pathlib
import runpy
import statistics
import sys

import jax
from variants import CONFIG, VARIANTS

from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.train.build import build

sys.path.append(str(pathlib.Path(__file__).parents[1] / "bench"))

from pairs import drawn_teacher, first_batch, freeze, stepping
from turns import in_turn

ROUNDS = 30


def main():
    sides, every = {}, {}
    for name, fields in VARIANTS.items():
        config = runpy.run_path(str(CONFIG))["get_config"]()
        config.num_devices = 1
        config.update_from_flattened_dict(fields)
        every[name] = config.train.distill_every
        run = build(config, open_data(resolve(config).data))
        teacher = {}
        if run.teacher is not None:
            teacher = jax.device_put(freeze(run, drawn_teacher(run)))
        # The first of k steps is DiffKD's own; timed is one of those between.
        distill = every[name] == 1
        step = lambda *arguments, run=run, distill=distill: run.step(
            *arguments, distill
        )
        sides[name] = stepping(step, run.init(), teacher, first_batch(run))
    found = in_turn(sides, ROUNDS)
    print("| variant | a step, ms | of DiffKD's | of CPU time |")
    print("|---|---|---|---|")
    for name, k in every.items():
        ratios = [[], []]
        for i in range(ROUNDS):
            for which in (0, 1):
                full = found["diffkd"][i][which]
                own = found[name][i][which]
                if k > 1:
                    own = (full + (k - 1) * own) / k
                ratios[which].append(own / full)
        wall, cpu = map(statistics.median, ratios)
        full = statistics.median(wall for wall, _ in found["diffkd"])
        print(f"| {name} | {1e3 * wall * full:.1f} | {wall:.2f} | {cpu:.2f} |")


if __name__ == "__main__":
    main()
