"""Steps a second of the trainer, beside those of its compiled step alone.

    python experiments/bench/trainer_overhead.py --config=configs/quickstart.py

Both get the same batches, made beforehand: the trainer arrays of the host, as a
pipeline gives them, the step alone one that lies on the device. Round after round the
trainer makes ``--steps`` steps between two log rows, in a fresh workdir, without
evaluations and saves; the step alone makes as many, dispatched one ahead as there.
Medians and quartiles over the rounds, wall clock, and CPU seconds of the process: where
the device is the CPU, what Python takes is taken from it.

The second table has what the trainer does beside the step, each part by itself.
"""

import contextlib
import io
import itertools
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from step_time import CONFIG, ROUNDS, run_of

from diffkd_jax.train import fit
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.finite import FiniteCheck
from diffkd_jax.train.outputs.metrics import Progress, Writer
from diffkd_jax.train.workdir.checkpoint_manager import open_checkpoints

METHODS = flags.DEFINE_list("methods", ["none", "diffkd"], "Timed one by one.")
STEPS = flags.DEFINE_integer("steps", 100, "Timed steps of a round.")
LOG_EVERY = flags.DEFINE_integer("log_every", 50, "Steps between two log rows.")
BATCHES = 8
TIMES = 200  # of a part


def prepared(config, method):
    """A run that only steps and logs, and its batches, which are at hand."""
    run = run_of(config, method)
    with contextlib.closing(training_batches(run)) as batches:
        given = list(itertools.islice(batches, BATCHES))
    state, total = run.init(), LOG_EVERY.value + STEPS.value
    plan = run.plan._replace(
        total_steps=total + 1,
        eval_every=10 * total,
        log_every=LOG_EVERY.value,
        save_every=0,
    )

    def at_hand(run, step, asked):
        # The trainer takes fields out of them.
        yield from (dict(batch) for batch in itertools.cycle(given))

    run = run._replace(plan=plan, init=lambda: jax.tree.map(jnp.copy, state))
    return run, at_hand


class Reached(Exception):
    """The trainer has made its steps."""


def trainer(run, batches):
    """Seconds a step, of the wall and of the CPU."""
    seen = {}

    def note(event, step):
        if event == "log":
            seen[step] = clocks()
        if step == LOG_EVERY.value + STEPS.value:
            raise Reached

    with tempfile.TemporaryDirectory() as folder:
        silent = contextlib.redirect_stdout(io.StringIO())
        with silent, contextlib.suppress(Reached):
            fit.fit(run, pathlib.Path(folder), batches=batches, events=note)
    return (seen[LOG_EVERY.value + STEPS.value] - seen[LOG_EVERY.value]) / STEPS.value


def alone(run, batch):
    """The same of the compiled step."""
    state, teacher, before = run.init(), run.teacher_variables, None
    for step in range(LOG_EVERY.value + STEPS.value):
        state, metrics = run.step(state, teacher, batch)
        jax.block_until_ready(before)
        before = metrics
        if step == LOG_EVERY.value - 1:
            start = clocks()
    return (clocks() - start) / STEPS.value


def clocks():
    return np.array([time.perf_counter(), time.process_time()])


def parts(run, folder):
    """Name to a function that does a part, and the steps that it is done for."""
    log_every = LOG_EVERY.value
    batches = training_batches(run)
    batch = next(batches)
    batch.pop("skipped")
    _, metrics = run.step(
        run.init(), run.teacher_variables, sharding.put_batch(batch, run.devices.mesh)
    )
    copied = jax.jit(lambda metrics: jax.tree.map(jnp.copy, metrics))
    # Each is fetched once, for an array keeps what it was fetched as.
    several = iter([jax.block_until_ready(copied(metrics)) for _ in range(TIMES)])
    pending = [(step, jax.device_get(metrics)) for step in range(log_every)]
    manager = open_checkpoints(folder, run.task, {})
    finite = FiniteCheck(manager, folder, run.plan.max_skipped, 0)
    writer = Writer(folder, 0)
    rate = jax.jit(run.plan.schedule)
    progress = Progress(run.title, 0, run.plan.total_steps, run.plan.batch_size)
    values = finite.average(pending)
    return {
        "a batch is taken, and looked at": (lambda: next(batches), 1),
        "it is made what the step takes": (
            lambda: jax.block_until_ready(
                jax.device_put(
                    sharding.put_batch(batch, run.devices.mesh),
                    sharding.split_batch(run.devices.mesh),
                )
            ),
            1,
        ),
        "metrics are fetched, one step behind": (
            lambda: jax.device_get(next(several)),
            1,
        ),
        "metrics are looked at and averaged": (
            lambda: finite.average(pending),
            log_every,
        ),
        "learning rate of the row": (lambda: rate(3), log_every),
        "the row is written": (lambda: writer.write(1, values), log_every),
        "the line is shown": (lambda: progress.show(1, values), log_every),
    }


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    print(f"| method | {' | '.join(COLUMNS)} |\n|{'---|' * (1 + len(COLUMNS))}")
    runs = {}
    for method in METHODS.value:
        run, at_hand = prepared(CONFIG.value, method)
        runs[method] = run
        batch = next(training_batches(run))
        batch.pop("skipped")
        batch = jax.device_put(batch, sharding.split_batch(run.devices.mesh))
        ways, found = {trainer: at_hand, alone: batch}, {trainer: [], alone: []}
        for way, argument in ways.items():  # compiles
            way(run, argument)
        for number in range(ROUNDS.value):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                found[way].append(way(run, ways[way]))
        ours, bare = (1e3 * np.array(found[way]) for way in ways)
        low, middle, high = np.percentile(bare[:, 0] / ours[:, 0], [25, 50, 75])
        cells = [*np.median(bare, 0), *np.median(ours, 0)]
        cells = [f"{cells[i]:.2f}" for i in (0, 2, 1, 3)]
        cells.insert(2, f"{middle:.3f} ({low:.3f} to {high:.3f})")
        print(f"| {method} | {' | '.join(cells)} |", flush=True)
    print(f"\n| part | {' | '.join(runs)} |\n|{'---|' * (1 + len(runs))}")
    rows = {}
    for run in runs.values():
        with tempfile.TemporaryDirectory() as folder:
            for name, (part, steps) in parts(run, pathlib.Path(folder)).items():
                times = []
                for _ in range(TIMES // min(steps, 10)):
                    start = time.perf_counter()
                    with contextlib.redirect_stdout(io.StringIO()):
                        part()
                    times.append(time.perf_counter() - start)
                rows.setdefault(name, []).append(1e6 * np.median(times) / steps)
    for name, micros in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.0f}' for value in micros)} |")


COLUMNS = (
    "step alone, ms",
    "in the trainer",
    "its rate to that of the step alone",
    "CPU ms alone",
    "CPU ms in the trainer",
)

if __name__ == "__main__":
    app.run(main)
