"""Batches from splits, by Grain: deterministic, sharded, checkpointable."""

from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from .sources import Split

Batch = dict[str, Any]


def train_batches(
    split: Split,
    transform: Callable[[Batch, np.random.Generator], Batch],
    *,
    batch_size: int,
    seed: int,
    num_epochs: int,
    num_threads: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """Shuffled training batches of this process, with a state to checkpoint.

    Every epoch has its own order, a function of ``(seed, epoch)``; the examples that
    do not fill a batch are left out of that epoch. Processes see disjoint parts.
    One element of the Grain data set is a whole batch, so that arrays in memory are
    indexed and augmented at once.

    Args:
      split: random access to examples.
      transform: augmentation and normalisation of a batch, with its random source.
      batch_size: examples a step over all processes.
      seed: of order and augmentation.
      num_epochs: length of the run.
      num_threads: threads that prepare batches ahead.
      process_index: this process.
      process_count: number of processes.

    Raises:
      ValueError: a batch larger than the split or not divisible by the processes.

    >>> from diffkd_jax.data.sources import load
    >>> batches = train_batches(load("fashion_mnist_embedded").splits["train"],
    ...     lambda batch, rng: batch, batch_size=4, seed=0, num_epochs=1)
    >>> next(batches)["image"].shape
    (4, 28, 28, 1)
    """
    if not 1 <= batch_size <= split.size:
        raise ValueError(
            f"data.batch_size: found {batch_size}, expected 1 to {split.size}, the "
            "number of training examples"
        )
    if batch_size % process_count:
        raise ValueError(
            f"data.batch_size: found {batch_size}, expected a multiple of the "
            f"{process_count} processes"
        )
    steps = split.size // batch_size
    examples = grain.MapDataset.range(split.size).seed(seed).shuffle()
    examples = examples[: steps * batch_size][process_index::process_count]
    batches = (
        examples.repeat(num_epochs)
        .batch(batch_size // process_count)
        .random_map(lambda rows, rng: transform(split.fetch(rows), rng))
    )
    options = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=2 * max(num_threads, 1)
    )
    return iter(batches.to_iter_dataset(options))


def eval_batches(
    split: Split,
    transform: Callable[[Batch], Batch],
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once, in order; the last batch is padded and masked.

    Yields batches with ``mask``, float32 ``[n]``, 1 for examples and 0 for padding.
    All processes yield the same number of batches.

    Args:
      split: random access to examples.
      transform: normalisation of a batch.
      batch_size: examples a batch over all processes, a multiple of their number.
      process_index: this process.
      process_count: number of processes.
    """
    local = batch_size // process_count
    for start in range(0, split.size, batch_size):
        rows = start + process_index * local + np.arange(local)
        mask = (rows < split.size).astype(np.float32)
        batch = transform(split.fetch(np.minimum(rows, split.size - 1)))
        yield batch | {"mask": mask}
