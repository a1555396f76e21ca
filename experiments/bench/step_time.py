"""Time of one training step, in parts, with and without DiffKD; one JSON line.

    python experiments/bench/step_time.py --config=configs/quickstart.py

Parts are compiled programs of their own and are timed in turn, round after round, so
that a change of load falls on all of them; medians over the rounds. The parts share
work with the whole and overlap in it, so they need not add up.
"""

import json
import os
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from diffkd_jax.backend.compiler import compiler_options
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.components import batch_shapes

CONFIG = config_flags.DEFINE_config_file("config")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds of all parts.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Calls of each part in a round.")


def run_of(config, method):
    """A run of a method, a teacher of drawn weights loaded."""
    own = config.copy_and_resolve_references()
    own.method, own.num_devices = method, 1
    run = build(own)
    if run.teacher is None:
        return run
    batch = batch_shapes(run.data, 1)
    params, state = jax.jit(lambda key: run.teacher.init(key, batch))(jax.random.key(1))
    teacher = run.teacher._replace(variables={"params": params, **state})
    return run._replace(teacher=teacher)


def parts(config):
    """Name to a function without arguments that runs one part and blocks."""
    diffkd, none = run_of(config, "diffkd"), run_of(config, "none")
    raw = next(training_batches(diffkd, 0))
    raw.pop("skipped")
    batch, key = diffkd.data.normalise(raw), jax.random.key(0)
    given = diffkd.pure_step.keywords
    apply, distill = given["student_apply"], given["distillation"]
    jit = lambda f: jax.jit(f, compiler_options=compiler_options())
    teacher_variables = diffkd.teacher_variables
    state, plain_state = diffkd.init(), none.init()
    full, plain = jit(diffkd.pure_step), jit(none.pure_step)
    params, carried = state.params["student"], state.model_state["student"]
    student_out, _ = jit(apply)(params, carried, batch, key)
    teacher_forward = jit(diffkd.teacher.infer)
    teacher_out = teacher_forward(teacher_variables, batch)

    def task(params):
        outputs, _ = apply(params, carried, batch, key)
        return sum(diffkd.task.loss(outputs, batch).values())

    def distance(params, student_out):
        losses, _, _ = distill.loss(
            params, state.model_state["distiller"], key, student_out, teacher_out
        )
        return sum(losses.values())

    gradient = jax.tree.map(jnp.ones_like, state.params)
    student_forward, student_both = jit(task), jit(jax.grad(task))
    distill_forward, distill_both = jit(distance), jit(jax.grad(distance, (0, 1)))
    update = jit(given["optimizer"].update)
    taps = {n: student_out[n] for n in ("features", "logits")}
    return {
        "step_diffkd": lambda: full(state, teacher_variables, raw),
        "step_none": lambda: plain(plain_state, {}, raw),
        "teacher_forward": lambda: teacher_forward(teacher_variables, batch),
        "student_forward": lambda: student_forward(params),
        "student_forward_backward": lambda: student_both(params),
        "distillation_forward": lambda: distill_forward(
            state.params["distiller"], taps
        ),
        "distillation_forward_backward": lambda: distill_both(
            state.params["distiller"], taps
        ),
        "update": lambda: update(gradient, state.opt_state, state.params),
    }


def main(argv):
    del argv
    config = CONFIG.value
    runs = parts(config)
    for run in runs.values():
        jax.block_until_ready(run())
    samples = {name: [] for name in runs}
    for _ in range(ROUNDS.value):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(REPEATS.value):
                jax.block_until_ready(run())
            samples[name].append((time.perf_counter() - start) / REPEATS.value)
    medians = {n: 1e3 * statistics.median(s) for n, s in samples.items()}
    spread = {
        n: 1e3 * float(np.subtract(*np.percentile(s, [75, 25])))
        for n, s in samples.items()
    }
    print(
        json.dumps(
            {
                "config": config.name,
                "student": config.student.model,
                "teacher": config.teacher.model,
                "batch_size": config.data.batch_size,
                "milliseconds": {n: round(v, 3) for n, v in medians.items()},
                "interquartile": {n: round(v, 3) for n, v in spread.items()},
                "diffkd_over_none": round(
                    medians["step_diffkd"] / medians["step_none"], 3
                ),
                "device": jax.devices()[0].device_kind,
                "cores": len(os.sched_getaffinity(0)),
                "machine": platform.processor() or platform.machine(),
                "jax": jax.__version__,
            }
        )
    )


if __name__ == "__main__":
    app.run(main)
