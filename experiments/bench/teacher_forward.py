"""Time of a teacher's forward pass: as trained, folded, and folded in bfloat16.

``xla_depthwise`` is the folded one with the depthwise convolutions of XLA instead of
ours, which differ on CPU only.

    python experiments/bench/teacher_forward.py --model=resnet34 --size=224 --batch=8

The variants are timed in turn, round after round, so that a change of load falls on all
of them; medians over the rounds, one JSON line.
"""

import json
import os
import statistics
import time
from unittest import mock

import jax
import numpy as np
from absl import app, flags

from diffkd_jax.backend.compiler import compiler_options
from diffkd_jax.models import build_network
from diffkd_jax.models.backbones import layers
from diffkd_jax.models.fold import fold

MODEL = flags.DEFINE_string("model", "resnet34", "Name of the teacher.")
SIZE = flags.DEFINE_integer("size", 224, "Side of the pictures, pixels.")
BATCH = flags.DEFINE_integer("batch", 8, "Pictures a call.")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds of all variants.")


def main(argv):
    del argv
    shape = (SIZE.value, SIZE.value, 3)
    x = np.random.default_rng(0).standard_normal((BATCH.value, *shape), np.float32)
    module = build_network(MODEL.value, num_classes=1000)
    half = build_network(MODEL.value, num_classes=1000, dtype="bfloat16")
    variables = jax.jit(module.init)(jax.random.key(0), x)
    folded = jax.device_put(fold(module, variables, shape))

    def variant(module, variables):
        # A function of its own, so that no variant finds the program of another.
        forward = lambda variables, x: module.apply(variables, x)
        run = jax.jit(forward, compiler_options=compiler_options())
        return lambda: jax.block_until_ready(run(variables, x))

    runs = {
        "as_trained": variant(module, variables),
        "folded": variant(module, folded),
        "folded_bfloat16": variant(half, folded),
    }
    for run in runs.values():
        run()
    runs["xla_depthwise"] = variant(module, folded)
    with mock.patch.object(layers, "depthwise", None):
        runs["xla_depthwise"]()  # compiles
    samples = {name: [] for name in runs}
    for _ in range(ROUNDS.value):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            samples[name].append(time.perf_counter() - start)
    medians = {n: 1e3 * statistics.median(s) for n, s in samples.items()}
    ratios = {n: round(medians["as_trained"] / t, 3) for n, t in medians.items()}
    result = {
        "model": MODEL.value,
        "batch": BATCH.value,
        "size": SIZE.value,
        "milliseconds": {n: round(t, 2) for n, t in medians.items()},
        "times_as_fast": ratios,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
