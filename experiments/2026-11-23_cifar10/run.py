"""All methods of one seed side by side, the teacher applied once a batch for all.

    python experiments/2026-11-23_cifar10/run.py CIFAR10_DIRECTORY SEED [STEPS]

With the same seed every method sees the same batches, so that the teacher's outputs can
be shared: they take the place of the teacher's variables in the training step. The
losses are those of single runs of ``diffkd_jax.main`` with this folder's config. Adds a
row a method to ``results.jsonl``; ``STEPS`` ends earlier, and writes nothing.
"""

import functools
import json
import pathlib
import sys
import time

import jax
import numpy as np
from config import get_config

from diffkd_jax.data import pipeline, transforms
from diffkd_jax.train import setup, sharding
from diffkd_jax.train.evaluate import make_evaluator
from diffkd_jax.train.loop import Loop, student_variables

HERE = pathlib.Path(__file__).parent
METHODS = ["none", "mse", "kd", "dkd", "dist", "diffkd", "diffkd_dist"]


def make_run(config, method_name, data, mesh, student, teacher, evaluate):
    """Step and first state of one method, as the trainer has them."""
    method = config.methods[method_name]
    taps = setup.make_taps(method)
    loop = Loop(
        config, HERE, data, mesh, student, teacher, taps, method, evaluate=evaluate
    )
    step = functools.partial(
        loop.pure_step, teacher_apply=lambda outputs, batch: outputs
    )
    return sharding.jit_step(step, mesh), loop.initial_state(), loop.total_steps


def main(directory, seed, most_steps=0):
    config = get_config()
    config.seed, config.data.path = int(seed), directory
    data, mesh = setup.open_data(config), sharding.make_mesh(1)
    student = setup.make_model(config.student, data)
    teacher = setup.load_teacher(config, data, HERE / "teacher.safetensors")
    evaluate = make_evaluator(config, data, mesh).metrics
    runs = {
        name: make_run(config, name, data, mesh, student, teacher, evaluate)
        for name in METHODS
    }
    steps = {name: step for name, (step, _, _) in runs.items()}
    states = {name: state for name, (_, state, _) in runs.items()}
    total = int(most_steps) or runs["none"][2]
    apply = setup.frozen_apply(teacher.module)
    teach = jax.jit(lambda v, x: apply(v, {"image": data.normalise(x)}))
    batches = pipeline.train_batches(
        data.train,
        transforms.train_transform(config.data),
        batch_size=config.data.batch_size,
        seed=config.seed,
        num_epochs=int(np.ceil(config.train.epochs)),
    )
    start, log = time.monotonic(), []
    for number, batch in zip(range(1, total + 1), batches, strict=False):
        batch.pop("skipped")
        outputs = teach(teacher.variables, batch["image"])
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
        values = evaluate(student.module, student_variables(states[name]))
        row = {"method": name, "seed": config.seed, "steps": total}
        row |= {f"final_{k}": v for k, v in values.items()}
        print(json.dumps(row), flush=True)
        with (HERE / "results.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
