"""Makes the batches that one process trains and evaluates on.

If no batch comes, the generators warn, and raise ``Stalled`` in the end: see
:func:`diffkd_jax.train.cluster.signals.make_waiting`.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ..config.data import DataConfig
from ..data import Data, Split
from ..data.pipeline import batches as pipeline
from ..data.pipeline.read_ahead import Batches
from ..data.pipeline.unreadable import note_skipped, repeat_readable
from ..data.transforms.draws import Draws
from .cluster.signals import ShouldStop, make_waiting, never
from .run import Run


def training_batches(
    run: Run, first_step: int = 0, should_stop: ShouldStop = never
) -> Batches:
    """Returns a generator of this process's training batches, augmented.

    The batches depend only on the seed, the step and the data. The generator ends after
    ``train.epochs`` epochs, rounded up. Close it if it is not used up.

    Args:
      run: the run.
      first_step: number of steps already done, whose batches are left out.
      should_stop: returns the number of the signal to stop for, or 0. It is called
        while no batch comes.

    Returns:
      The generator. A batch holds arrays by name. Its entry ``skipped``, int
      ``[n]``, holds the rows of the split that could not be read, and -1 as padding.
    """
    config, data = run.config, run.data
    return pipeline.train_batches(
        data.train,
        lambda batch, draws: data.transform.train(batch, draws, config.data),
        batch_size=run.plan.batch_size,
        seed=config.seed,
        num_epochs=int(np.ceil(config.train.epochs)),
        start=first_step,
        **_reader_arguments(config.data, should_stop),
    )


def sample_batch(run: Run) -> dict[str, Any]:
    """Returns a batch with the shapes of a training batch, copies of one example.

    Args:
      run: the run, in a single process.

    Raises:
      UnreadableImage: none of the first thousand examples decodes.
    """
    config, data, size = run.config, run.data, run.plan.batch_size
    draws = Draws(config.seed, 0, np.zeros(1, int))
    augment = lambda batch: data.transform.train(batch, draws, config.data)
    batch = repeat_readable(data.train, augment, size)
    return batch | {"index": np.zeros(size, int), "mask": np.ones(size, np.float32)}


def evaluation_batches(
    options: DataConfig, data: Data, split: Split, mesh: Mesh
) -> Callable[[ShouldStop], Generator[Mapping[str, Any]]]:
    """Returns a function that starts a pass over a split, each example once.

    The function is ``should_stop -> generator of batches``. Each process gets its own
    part of every batch.

    Args:
      options: the section ``data`` of a config.
      data: the data.
      split: the split to evaluate on.
      mesh: the devices, which share a batch.

    Returns:
      The function.
    """
    transform = lambda batch: data.transform.evaluate(batch, options)
    num_devices = len(mesh.local_devices) * jax.process_count()
    unreadable = dict[int, str]()

    def batches(should_stop: ShouldStop) -> Generator[Mapping[str, Any]]:
        process_batches = pipeline.eval_batches(
            split,
            transform,
            batch_size=eval_batch_size(
                options.eval_batch_size, split.size, num_devices
            ),
            **_reader_arguments(options, should_stop),
        )
        with closing(process_batches):
            for batch in process_batches:
                skipped = batch.pop("skipped")
                note_skipped(skipped, unreadable, split, options.max_unreadable)
                yield batch

    return batches


def eval_batch_size(requested: int, examples: int, devices: int) -> int:
    """Returns the batch size for evaluation, over all processes.

    Args:
      requested: ``data.eval_batch_size``.
      examples: number of examples; a batch need not be larger.
      devices: number of devices, of which the result is a multiple.

    Returns:
      The smaller of the first two, rounded up to a multiple of ``devices``.

    >>> eval_batch_size(100, 2000, 8), eval_batch_size(256, 5, 8)
    (104, 8)
    """
    return -(-min(requested, examples) // devices) * devices


def _reader_arguments(options: DataConfig, should_stop: ShouldStop) -> dict[str, Any]:
    """Returns the arguments of the pipeline for threads, processes and waiting."""
    return {
        "num_threads": options.num_threads,
        "num_workers": options.num_workers,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "waiting": make_waiting(should_stop, options.stalled_seconds),
    }
