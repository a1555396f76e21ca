"""Time to trace, lower and compile the training steps of students, undistilled.

    PYTHONPATH=. python experiments/bench/compile_time.py resnet18 mobilenet_v2

All students have the recipe of ``imagenet:r50-mbv2`` and are compiled in turn, round
after round, each in a fresh process; medians and quartiles of CPU seconds, and how many
times those of the first one they are. ``--run`` also times the compiled step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from pairs import config_of, data_of, shapes_for

from diffkd_jax.backend.compiler import compiler_options
from diffkd_jax.train.build import build

PARTS = ("trace", "lower", "compile")


def step_of(model, size, batch):
    """A run of a student alone, and the shapes that its step takes."""
    config = config_of("imagenet:r50-mbv2", batch, "none")
    config.student.model, config.data.image_size = model, size
    config.data.resize = 0
    run = build(config, data_of(config))
    return run, shapes_for(run)


def measure(model, size, batch, calls):
    """CPU seconds of each part, and the shortest step in milliseconds."""
    run, shapes = step_of(model, size, batch)
    compiler_options()  # which compiles a program to try them
    found = {}

    def timed(name, function):
        start = time.process_time()
        result = function()
        found[name] = time.process_time() - start
        return result

    traced = timed("trace", lambda: run.step.trace(*shapes))
    lowered = timed("lower", traced.lower)
    compiled = timed("compile", lowered.compile)
    if calls:
        state, steps = run.init(), []
        given = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes[2])
        for _ in range(calls + 1):
            start = time.perf_counter()
            state, metrics = compiled(state, {}, given)
            jax.block_until_ready(metrics)
            steps.append(time.perf_counter() - start)
        found["step_ms"] = 1e3 * min(steps[1:])
    return found


def row(model, rounds, base):
    """A line of the table."""
    cells = [f"{statistics.median(r[p] for r in rounds):.2f}" for p in PARTS]
    sums = [sum(r[p] for p in PARTS) for r in rounds]
    low, middle, high = np.percentile(sums, [25, 50, 75])
    cells += [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{middle / base:.2f}"]
    if "step_ms" in rounds[0]:
        cells.append(f"{min(r['step_ms'] for r in rounds):.0f}")
    return f"| {model} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names of students")
    parser.add_argument("--size", type=int, default=224, help="side, pixels")
    parser.add_argument("--batch", type=int, default=8, help="pictures a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=int, default=0, help="steps to time, 0 for none")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one = measure(given.models[0], given.size, given.batch, given.run)
        print(json.dumps(one))
        return
    rounds = {model: [] for model in given.models}
    options = [f"--{k}={getattr(given, k)}" for k in ("size", "batch", "run")]
    for _ in range(given.rounds):
        for model, found in rounds.items():
            command = [sys.executable, __file__, model, "--one", *options]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found.append(json.loads(output.splitlines()[-1]))
    total = lambda r: sum(r[part] for part in PARTS)
    base = statistics.median(map(total, rounds[given.models[0]]))
    step = ["step, ms"] if given.run else []
    head = ["student", *PARTS, "sum, CPU s (quartiles)", "of the first", *step]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for model, found in rounds.items():
        print(row(model, found, base))


if __name__ == "__main__":
    main()
