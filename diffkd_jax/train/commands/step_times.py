"""Times of a training step of each compared method, measured and stored."""

import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np

from ..batches import training_batches
from ..cluster import processes, sharding
from ..cluster.signals import ShouldStop, never, stop_if_requested
from ..outputs.metrics import print_line
from ..run import Run
from ..teacher import draw_teacher, fold_teacher
from ..workdir.directory import read_json_object, write_json

FILE = "step_times.json"
ROUNDS = 7
TURN_SECONDS, MOST_STEPS = 0.5, 100  # wanted length of a turn; its largest length


class StepTime(NamedTuple):
    """A measured time of a training step, and that of the reference beside it.

    Both are measured in turns, so the load of the machine affects both alike. The
    reference is measured again beside each method, so its time may differ slightly
    from method to method.

    Attributes:
      seconds: median time of a step of the method, in seconds.
      reference_seconds: median time of a step of the reference in the same rounds, in
        seconds.

    >>> StepTime(0.5, 0.25).cost
    2.0
    """

    seconds: float
    reference_seconds: float

    @property
    def cost(self) -> float:
        """Returns the time of a step as a multiple of the reference's."""
        return self.seconds / self.reference_seconds


def read_or_measure(
    runs: Mapping[str, Run],
    workdir: pathlib.Path,
    should_stop: ShouldStop,
    measure: Callable[[Run, Run], StepTime],
) -> dict[str, StepTime]:
    """Returns the time of a step of each row; measures those that are not stored.

    Times are stored in ``step_times.json``. A resumed comparison reads them, so the
    lengths of its runs for equal time stay the same. Without the file the times are
    measured again, and runs for equal time that have begun no longer fit.

    Args:
      runs: built runs by row; the first one is the reference.
      workdir: directory of the comparison.
      should_stop: returns the number of the signal to stop for, or 0.
      measure: ``(run, reference) -> time``, such as :func:`measure_step`.

    Returns:
      Times by row.

    Raises:
      ValueError: the file cannot be read, or holds times relative to another method.
      Stopped: a stop was requested.
    """
    file, reference = workdir / FILE, next(iter(runs))
    stored = read_json_object(file) if processes.is_primary() and file.exists() else {}
    expected = stored.get("reference", reference)
    if not processes.is_true_everywhere(expected == reference):
        raise ValueError(
            f"compare: found the reference {reference!r}, expected {expected!r}, to "
            f"which the times in {file} relate; name it first or choose another "
            "--workdir"
        )
    by_row = stored.get("methods", {})
    times = {}
    for row, run in runs.items():
        stop_if_requested(should_stop)
        is_stored = processes.broadcast_first(row in by_row)
        if is_stored:
            pair = _read_pair(by_row.get(row, [0.0, 0.0]), file)
        else:
            pair = measure(run, runs[reference])
            print_line(f"{run.title}  {1000 * pair.seconds:.4g} ms a step")
        # The others get the first process's numbers, as float32.
        times[row] = StepTime(*(processes.broadcast_first(x) for x in pair))
        if not is_stored and processes.is_primary():
            by_row[row] = list(times[row])
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(file, {"reference": reference, "methods": by_row})
    return times


def relate_times(
    times: Mapping[str, StepTime], reference: str, workdir: pathlib.Path
) -> dict[str, StepTime]:
    """Writes measured times in relation to another method, and returns them.

    Args:
      times: times by method, which relate to one of them.
      reference: name of the method to which the result relates.
      workdir: directory of the comparison, which holds ``step_times.json``.

    Returns:
      Times by method, the reference first.
    """
    factor, seconds = times[reference].cost, times[reference].seconds
    related = {reference: StepTime(seconds, seconds)}  # it stands first
    for method, pair in times.items():
        if method != reference:
            # Processes exchange numbers as float32, which must not change them.
            other = float(np.float32(pair.reference_seconds * factor))
            related[method] = StepTime(pair.seconds, other)
    if processes.is_primary():
        methods = {method: list(pair) for method, pair in related.items()}
        write_json(workdir / FILE, {"reference": reference, "methods": methods})
    return related


def stored_reference(workdir: pathlib.Path) -> str:
    """Returns the method to which the stored times relate; "" without stored times.

    Args:
      workdir: directory of the comparison.

    Raises:
      ValueError: the file cannot be read.

    >>> stored_reference(pathlib.Path("no_run"))
    ''
    """
    file = workdir / FILE
    return str(read_json_object(file).get("reference", "")) if file.exists() else ""


def _read_pair(pair: Any, file: pathlib.Path) -> StepTime:
    """Returns two times from the file; raises ValueError for anything else."""
    is_pair = isinstance(pair, list) and len(pair) == 2
    if not is_pair or not all(isinstance(x, float) and x >= 0 for x in pair):
        raise ValueError(
            f"{file}: found {pair!r}, expected two times in seconds; restore the file "
            "or choose another --workdir: new times would give runs other lengths"
        )
    return StepTime(*pair)


def measure_step(run: Run, reference: Run, should_stop: ShouldStop = never) -> StepTime:
    """Returns the times of a step of a run and of the reference, measured in turns.

    A step is the compiled one with one batch of training data. The forward pass of the
    teacher is included; reading images, logs, evaluations and checkpoints are not. The
    teacher has random values, on which the time does not depend. The median of seven
    rounds counts, so that other work on the machine matters less.

    Args:
      run: the run, its teacher not loaded.
      reference: the run of the reference; the same object if the method is it.
      should_stop: returns the number of the signal to stop for, or 0. It is called
        between turns, and before each compilation.

    Returns:
      Both times.

    Raises:
      Stopped: a stop was requested.
    """
    turns = [_prepare_turns(run, should_stop)]
    if run is not reference:
        turns.append(_prepare_turns(reference, should_stop))
    rounds = [[turn() for turn in turns] for _ in range(ROUNDS)]
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    # Processes exchange numbers as float32, which must not change them.
    seconds = [float(np.float32(median)) for median in medians]
    return StepTime(seconds[0], seconds[-1])


def _prepare_turns(run: Run, should_stop: ShouldStop) -> Callable[[], float]:
    """Compiles the step of a run; returns a function that times one turn of it.

    The function returns the mean time of a step in seconds. If only some steps are
    distilled, both kinds count with their shares.
    """
    if run.teacher is not None:
        drawn = draw_teacher(run.teacher, run.shapes.batch, run.config.seed)
        run = run._replace(teacher=fold_teacher(drawn))
    with closing(training_batches(run, should_stop=should_stop)) as batches:
        batch = dict(next(batches))
    batch.pop("skipped", None)
    variables, state = run.teacher_variables, run.init()
    every = run.plan.distill_every if run.method.taps else 1
    shares = {True: 1 / every, False: 1 - 1 / every}

    def run_steps(distill: bool, count: int) -> float:
        nonlocal state
        stop_if_requested(should_stop)
        started = time.perf_counter()
        for _ in range(count):
            on_devices = sharding.put_batch(batch, run.devices.mesh)
            state, metrics = run.step(state, variables, on_devices, distill)
        jax.block_until_ready((state, metrics))
        return (time.perf_counter() - started) / count

    counts = {}
    for distill, share in shares.items():
        if share:
            run_steps(distill, 1)  # compiles
            seconds = statistics.median(run_steps(distill, 1) for _ in range(3))
            count = min(max(1, round(TURN_SECONDS / seconds)), MOST_STEPS)
            counts[distill] = processes.broadcast_first(count)
    return lambda: sum(shares[d] * run_steps(d, n) for d, n in counts.items())
