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
import optax
from absl import app, flags
from ml_collections import config_flags

from diffkd_jax.core.distill import distillation
from diffkd_jax.core.platform import compiler_options
from diffkd_jax.core.step import diffkd_step, init_state
from diffkd_jax.tasks import classification
from diffkd_jax.train import setup

CONFIG = config_flags.DEFINE_config_file("config")
ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed rounds of all parts.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Calls of each part in a round.")


def parts(config):
    """Name to a function without arguments that runs one part and blocks."""
    data = setup.open_data(config)
    size = config.data.batch_size
    key = jax.random.key(0)
    batch = {
        "image": jax.random.normal(key, (size, *data.input_shape)),
        "target": {"label": jnp.arange(size) % len(data.class_names)},
    }
    student = setup.make_model(config.student, data).module
    teacher = setup.make_model(config.teacher, data).module
    apply, frozen = setup.student_apply(student), setup.frozen_apply(teacher)
    init = lambda module: jax.jit(lambda k: setup.init_variables(module, k, data))(key)
    teacher_variables = init(teacher)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def method(name):
        distill = distillation(setup.make_taps(config.methods[name]))
        variables = init(student)
        params = variables.pop("params")
        student_out, _ = apply(params, variables, batch, key)
        teacher_out = frozen(teacher_variables, batch)
        state = init_state(
            key,
            params,
            variables,
            student_out,
            teacher_out,
            distillation=distill,
            optimizer=optimizer,
        )

        def step(state, teacher_variables, batch):
            return diffkd_step(
                state,
                teacher_variables,
                batch,
                student_apply=apply,
                teacher_apply=frozen if name != "none" else lambda v, b: {},
                distillation=distill,
                task_loss=classification.loss,
                optimizer=optimizer,
                weights={},
                seed=0,
            )

        return distill, state, student_out, teacher_out, jit(step)

    jit = lambda f: jax.jit(f, compiler_options=compiler_options())
    distill, state, student_out, teacher_out, full = method("diffkd")
    _, plain_state, _, _, plain = method("none")
    params, carried = state.params["student"], state.model_state["student"]

    def task(params):
        return classification.loss(apply(params, carried, batch, key)[0], batch)["task"]

    def distance(params, student_out):
        losses, _ = distill.loss(
            params, state.model_state["distiller"], key, student_out, teacher_out
        )
        return sum(losses.values())

    gradient = jax.tree.map(jnp.ones_like, state.params)
    student_forward, student_both = jit(task), jit(jax.grad(task))
    teacher_forward = jit(frozen)
    distill_forward, distill_both = jit(distance), jit(jax.grad(distance, (0, 1)))
    update = jit(optimizer.update)
    taps = {n: student_out[n] for n in ("features", "logits")}
    return {
        "step_diffkd": lambda: full(state, teacher_variables, batch),
        "step_none": lambda: plain(plain_state, teacher_variables, batch),
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
