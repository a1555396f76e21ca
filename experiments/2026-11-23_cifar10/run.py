"""All methods of one seed side by side, the teacher applied once a batch for all.

    python experiments/2026-11-23_cifar10/run.py CIFAR10_DIRECTORY SEED [STEPS]

With the same seed every method sees the same batches, so that the teacher's outputs can
be shared: they take the place of the teacher's variables in the training step. The
losses are those of single runs of ``diffkd_jax.main`` with this folder's config. Adds a
row a method to ``results.jsonl``; ``STEPS`` ends earlier, and writes nothing.
"""

import functools
import pathlib
import sys
import time

import jax
import numpy as np
from config import get_config

from diffkd_jax.io import valid_json
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.run import student_variables
from diffkd_jax.train.teacher import load_teacher

HERE = pathlib.Path(__file__).parent
METHODS = ["none", "mse", "kd", "dkd", "dist", "diffkd", "diffkd_dist"]


def make_run(config, method):
    """The run of one method, and its step, which takes the teacher's outputs."""
    own = config.copy_and_resolve_references()
    own.method = method
    run = build(own)
    step = run.pure_step
    if run.teacher is not None:
        step = functools.partial(step, teacher_apply=lambda outputs, batch: outputs)
    return run, sharding.jit_step(step, run.devices)


def main(directory, seed, most_steps=0):
    config = get_config()
    config.seed, config.data.path, config.num_devices = int(seed), directory, 1
    made = {name: make_run(config, name) for name in METHODS}
    runs = {name: run for name, (run, _) in made.items()}
    steps = {name: step for name, (_, step) in made.items()}
    states = {name: run.init() for name, run in runs.items()}
    first = runs["none"]
    total = int(most_steps) or first.plan.total_steps
    teacher = load_teacher(HERE / "teacher.safetensors", runs["kd"].teacher)
    teach = jax.jit(lambda v, batch: teacher.infer(v, first.data.normalise(batch)))
    batches = training_batches(first, 0)
    start, log = time.monotonic(), []
    for number, batch in zip(range(1, total + 1), batches, strict=False):
        batch.pop("skipped")
        outputs = teach(teacher.variables, batch)
        metrics = {}
        for name in METHODS:
            given = {} if name == "none" else outputs
            states[name], metrics[name] = steps[name](states[name], given, batch)
        log.append({m: float(v["loss/total"]) for m, v in metrics.items()})
        if number % 20 == 0 or most_steps:
            means = {m: np.mean([row[m] for row in log]) for m in METHODS}
            left = (time.monotonic() - start) / number * (total - number) / 60
            text = "  ".join(f"{m} {v:.4f}" for m, v in means.items())
            print(f"step {number}/{total}  ETA {left:.0f} min  {text}", flush=True)
            log = []
    if most_steps:
        return
    for name in METHODS:
        run = runs[name]
        values, _ = run.evaluate(run.student, student_variables(states[name]))
        row = {"method": name, "seed": config.seed, "steps": total}
        row |= {f"final_{k}": v for k, v in values.items()}
        print(valid_json.dumps(row), flush=True)
        with (HERE / "results.jsonl").open("a") as stream:
            stream.write(valid_json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
