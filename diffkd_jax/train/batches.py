"""Makes the batches that one process trains and evaluates on."""

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
from ..data.pipeline.unreadable import note_skipped
from .cluster.signals import Asked, never, while_waiting
from .run import Run


def training_batches(run: Run, first_step: int = 0, asked: Asked = never) -> Batches:
    """Returns a generator of this process's training batches, augmented.

    They depend only on the seed, the step and the data. Close the generator if it is
    not used up.

    Args:
      run: the run.
      first_step: number of steps already done, whose batches are left out.
      asked: whether to stop; it is called while no batch comes.

    Returns:
      The generator. A batch holds arrays by name, and ``skipped``: the images that
      could not be read, with reasons.
    """
    config, data = run.config, run.data
    return pipeline.train_batches(
        data.train,
        lambda batch, draws: data.transform.train(batch, draws, config.data),
        batch_size=run.plan.batch_size,
        seed=config.seed,
        num_epochs=int(np.ceil(config.train.epochs)),
        start=first_step,
        **_reader_arguments(config.data, asked),
    )


def evaluation_batches(
    options: DataConfig, data: Data, split: Split, mesh: Mesh
) -> Callable[[Asked], Generator[Mapping[str, Any]]]:
    """Returns ``asked -> generator``, over batches in which every example occurs once.

    Each process gets its own part of the batches.

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

    def batches(asked: Asked) -> Generator[Mapping[str, Any]]:
        process_batches = pipeline.eval_batches(
            split,
            transform,
            batch_size=eval_batch_size(
                options.eval_batch_size, split.size, num_devices
            ),
            **_reader_arguments(options, asked),
        )
        with closing(process_batches):
            for batch in process_batches:
                skipped = batch.pop("skipped")
                note_skipped(skipped, unreadable, split, options.max_unreadable)
                yield batch

    return batches


def eval_batch_size(requested: int, examples: int, devices: int) -> int:
    """Returns the batch size for evaluation.

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


def _reader_arguments(options: DataConfig, asked: Asked) -> dict[str, Any]:
    """Returns the arguments of the pipeline that say how this process reads."""
    return {
        "num_threads": options.num_threads,
        "num_workers": options.num_workers,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "waiting": while_waiting(asked, options.stalled_seconds),
    }
