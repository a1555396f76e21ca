"""A training step of ours against ``keras.distillation``, on the same two networks.

    pip install '.[bench]'
    NPROC=1 PYTHONPATH=. python experiments/bench/vs_keras.py wrn_40_2-wrn_40_1 kd

One process, one JAX: Keras runs on it as its backend. Both start from the same
variables, on the same batch, with SGD of momentum 0.9; that the numbers of parameters
are equal and the losses agree is checked first. "step" is the jitted step, ours of the
trainer, theirs of ``fit``; "loop" is the trainer's reader with that step, and ``fit``
itself, over arrays in memory, by step. The sides are timed in turn, round after round,
the order turned; ratios are medians of those of the rounds, with quartiles. ``NPROC``
is the number of threads of XLA. Ours is compiled with the trainer's options, theirs as
Keras does it; huge pages are for both (``GLIBC_TUNABLES=glibc.malloc.hugetlb=1``).
"""

import argparse
import os
import statistics

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation
from keras_networks import copy_variables, network
from pairs import config_of, data_of, drawn_teacher, first_batch, freeze
from turns import in_turn

from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.run import student_variables

RATE, TAU, STEPS = 0.05, 4.0, 3
# Share of the task in both losses; Keras gives the rest to the distillation.
SHARES = {"kd": 0.1, "mse": 0.5}
CLASSES = 100


def ours(pair, method, batch, batches):
    """A run of the trainer, its teacher drawn, and that teacher before freezing."""
    config = config_of(f"cifar100:{pair}", batch, method)
    config.optimizer.learning_rate, config.optimizer.weight_decay = RATE, 0.0
    config.schedule.name, config.data.augment = "constant", "none"
    config.train.epochs = 1.0
    tap = "logits" if method == "kd" else "features"
    share = SHARES[method]
    config.weights = {"task": share, f"{tap}/distance": 1.0 - share}
    run = build(config, data_of(config, batches))
    variables = drawn_teacher(run)
    frozen = freeze(run, variables)
    return run._replace(teacher=run.teacher._replace(variables=frozen)), variables


def theirs(pair, method, state, teacher_variables):
    """A compiled distiller with the same variables; checks their number."""
    names, share = pair.split("-"), SHARES[method]
    teacher = network(names[0], CLASSES)
    student_own = student_variables(state)
    project = state.params["distiller"].get("features", {})
    wide = 0
    if project:  # Keras compares layers of one shape: the projection is one of them
        wide = teacher.get_layer("features").output.shape[-1]
        student_own["params"] = {**student_own["params"], **project}
    student = network(names[1], CLASSES, wide)
    # By its default name the loss is a function, which is given logits as they are.
    loss = LogitsDistillation(TAU, keras.losses.KLDivergence())
    if method == "mse":
        loss = FeatureDistillation(
            "mse", "features", "projection" if wide else "features"
        )
    distiller = Distiller(teacher, student, loss, student_loss_weight=share)
    distiller.compile(
        optimizer=keras.optimizers.SGD(RATE, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    copy_variables(teacher, teacher_variables)
    copy_variables(student, student_own)
    found = sum(v.value.size for v in distiller.trainable_variables)
    expected = sum(x.size for x in jax.tree.leaves(state.params))
    if found != expected:
        raise ValueError(f"parameters: found {found} in Keras, {expected} in ours")
    return distiller, found


def state_of(distiller):
    return distiller._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )


def loop(run, state):
    """One epoch as the trainer runs it, without logs; the state and the last loss."""
    last, teacher = None, run.teacher_variables
    for batch in training_batches(run, 0):
        batch.pop("skipped")
        put = sharding.put_batch(batch, run.devices.mesh)
        state, metrics = run.step(state, teacher, put)
        if last is not None:
            jax.device_get(last)
        last = metrics
    return state, last


def check_losses(run, state, raw, distiller, given):
    """Takes some steps on one batch; raises where the losses differ by 1e-4."""
    total, teacher = 0.0, run.teacher_variables
    carried, differences, losses = state_of(distiller), [], {}
    for step in range(1, STEPS + 1):
        state, metrics = run.step(state, teacher, raw)
        total += float(metrics["loss/total"])
        # Their loss is the mean since the start.
        logs, carried = distiller.train_function(carried, iter([given]))
        mean = float(logs["loss"])
        differences.append(abs(mean - total / step) / mean)
        losses = losses or {"loss": mean}
    if max(differences) > 1e-4:
        raise ValueError(f"losses: found relative differences {differences}")
    return state, carried, losses | {"largest difference": max(differences)}


def counted(step, arguments, batch):
    """GFLOP a picture of a jitted step."""
    return step.lower(*arguments).cost_analysis()["flops"] / batch / 1e9


def attach(distiller, carried):
    """Puts a state back into the model's variables, where ``fit`` looks for it."""
    names = ("trainable", "non_trainable", "optimizer", "metrics")
    distiller._jax_state = {
        f"{name}_variables": part for name, part in zip(names, carried, strict=True)
    }
    distiller._jax_state_synced = False
    distiller.jax_state_sync()


def measure(asked):
    """What is known of both sides, and the times of their steps and of their loops."""
    run, variables = ours(asked.pair, asked.method, asked.batch, asked.batches)
    raw, state, teacher = first_batch(run), run.init(), run.teacher_variables
    distiller, count = theirs(asked.pair, asked.method, state, variables)
    x = np.asarray(jax.jit(run.data.normalise)(raw)["image"])
    given = jax.device_put((x, np.asarray(raw["target"]["label"])))
    distiller._symbolic_build(data_batch=given)
    distiller.make_train_function()
    of_keras = jax.jit(distiller.train_step), (state_of(distiller), given)
    gflop = [
        counted(run.step, (state, teacher, raw), asked.batch),
        counted(*of_keras, asked.batch),
    ]
    state, carried, losses = check_losses(run, state, raw, distiller, given)
    held = {"ours": state, "Keras": carried}
    del state, carried, of_keras  # what is donated must not be held twice

    def ours_step():
        held["ours"], metrics = run.step(held["ours"], teacher, raw)
        jax.block_until_ready((held["ours"], metrics))

    def their_step():
        logs, held["Keras"] = distiller.train_function(held["Keras"], iter([given]))
        jax.block_until_ready((logs, held["Keras"]))

    def ours_loop():
        held["ours"], metrics = loop(run, held["ours"])
        jax.block_until_ready((held["ours"], metrics))

    steps = in_turn({"ours": ours_step, "Keras": their_step}, asked.rounds)
    attach(distiller, held["Keras"])
    everything = run.data.train.fetch(np.arange(run.data.train.size))
    pictures = run.data.normalise({"image": everything["image"]})["image"]
    pictures, labels = np.asarray(pictures), everything["target"]["label"]

    def their_loop():
        distiller.fit(pictures, labels, asked.batch, epochs=1, verbose=0)

    loops = in_turn({"ours": ours_loop, "Keras": their_loop}, asked.loops)
    about = {"parameters": count, **losses, "GFLOP a picture, ours and Keras": gflop}
    return about, steps, loops


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pair", help="<teacher>-<student> of keras_networks")
    parser.add_argument("method", choices=SHARES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=16, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=9, help="of steps")
    parser.add_argument("--loops", type=int, default=5, help="rounds of epochs")
    asked = parser.parse_args()
    about, steps, loops = measure(asked)
    threads = os.environ.get("NPROC", len(os.sched_getaffinity(0)))
    print(about)
    print("| pair | method | threads | what | ours, ms | Keras, ms | ratio | of CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for what, times, share in (("step", steps, 1), ("loop", loops, asked.batches)):
        cells = [asked.pair, asked.method, threads, what, *cells_of(times, share)]
        print("| " + " | ".join(map(str, cells)) + " |")


def cells_of(times, share):
    """Median milliseconds, and ratios by round: median and quartiles."""
    wall = [1e3 * statistics.median(t for t, _ in times[n]) / share for n in times]
    cells = [f"{t:.0f}" for t in wall]
    for which in (0, 1):
        ratios = [
            a[which] / b[which]
            for a, b in zip(times["ours"], times["Keras"], strict=True)
        ]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})")
    return cells


if __name__ == "__main__":
    main()
