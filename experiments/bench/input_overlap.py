"""Whether batches are prepared while the device computes, in training, in evaluation.

    python experiments/bench/input_overlap.py --config=configs/quickstart.py

The preparation of a batch sleeps, in one thread, as long as the device takes for the
batch: a stand-in for cores that decode, which here the device needs itself.
Milliseconds a batch with batches at hand, of those alone, and of both: where nothing
waits, both take as long as one; where all do, as long as the sum. Medians over
interleaved rounds.
"""

import itertools
import time

import numpy as np
from absl import app, logging
from step_time import CONFIG, ROUNDS
from trainer_overhead import LOG_EVERY, STEPS, prepared, trainer

from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.train import evaluate
from diffkd_jax.train.run import student_variables

SIZE = 64  # of a batch
COUNT = 100  # batches of an evaluation


def repeated(split, size):
    """The split, over and over, up to so many examples."""
    fetch = lambda rows: split.fetch(rows % split.size)
    return split._replace(size=size, fetch=fetch, label=None, group=None)


def asleep(seconds):
    """A transform that takes so long for a batch, and no processor."""

    def transform(batch, draws=None):
        time.sleep(seconds)
        return dict(batch)

    return transform


def evaluation(run, _):
    """``(seconds of input or None) -> seconds a batch``; None for batches at hand."""
    split = repeated(run.data.evaluation, SIZE * COUNT)
    made = lambda seconds: pipeline.eval_batches(
        split, asleep(seconds), batch_size=SIZE, num_threads=1
    )
    first = next(made(0))
    infer = evaluate.make_infer(run.task, run.student)
    forward = evaluate.compile_evidence(
        run.task.evidence, infer, run.data.normalise, run.devices.mesh
    )
    variables = student_variables(run.init())

    def timed(seconds):
        def batches(asked):
            if seconds is None:
                yield from itertools.repeat(first, COUNT)
            else:
                yield from made(seconds)

        start = time.perf_counter()
        evaluate.gather_evidence(forward, variables, batches, run.devices.mesh)
        return (time.perf_counter() - start) / COUNT

    return timed, made


def training(run, at_hand):
    """The same of the trainer's steps."""
    steps = LOG_EVERY.value + STEPS.value + 10
    split = repeated(run.data.train, SIZE * steps)
    made = lambda seconds: pipeline.train_batches(
        split, asleep(seconds), batch_size=SIZE, seed=0, num_epochs=1, num_threads=1
    )

    def timed(seconds):
        given = at_hand if seconds is None else lambda *arguments: made(seconds)
        return trainer(run, given)[0]

    return timed, made


def alone(batches, count=30):
    """Seconds a batch of the input, without what is prepared ahead."""
    taken = [time.perf_counter() for _ in itertools.islice(batches, 10 + count)]
    batches.close()
    return (taken[-1] - taken[9]) / count


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    run, at_hand = prepared(CONFIG.value, "none")
    print("| | device alone, ms | input alone | both | both to the longer one |")
    print("|---|---|---|---|---|")
    for name, way in (("training", training), ("evaluation", evaluation)):
        timed, made = way(run, at_hand)
        timed(None)
        seconds = np.median([timed(None) for _ in range(3)])
        rounds = [
            (timed(None), alone(made(seconds)), timed(seconds))
            for _ in range(ROUNDS.value)
        ]
        found = 1e3 * np.median(rounds, 0)
        ratios = [both / max(device, given) for device, given, both in rounds]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        cells = " | ".join(f"{value:.2f}" for value in found)
        print(f"| {name} | {cells} | {middle:.2f} ({low:.2f} to {high:.2f}) |")


if __name__ == "__main__":
    app.run(main)
