"""Batches from splits, by Grain: deterministic, sharded, from any step on."""

from collections.abc import Callable

import grain
import numpy as np
from absl import flags

from ..split import Split, subset
from ..transforms.draws import Draws
from . import shared_memory
from .groups import alike, eval_rows, train_rows
from .read_ahead import Batch, Batches, Waiting, patient, read_ahead
from .unreadable import readable, replace_failed
from .workers import start_worker


def train_batches(
    split: Split,
    transform: Callable[[Batch, Draws], Batch],
    *,
    batch_size: int,
    seed: int,
    num_epochs: int,
    start: int = 0,
    num_threads: int = 2,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    waiting: Waiting = patient,
) -> Batches:
    """Shuffled training batches of this process, from any step on.

    Every epoch has its own order, a function of ``(seed, epoch)``; the examples that
    do not fill a batch are left out of that epoch. Where the split has groups, a batch
    is of one of them, see :func:`diffkd_jax.data.pipeline.groups.train_rows`. A process
    has the part of each batch that its devices hold, one after the other, and what is
    drawn for an example is a function of ``(seed, epoch, row)``: any number of
    processes train on the same batches. One element of the Grain data set is a whole
    batch, so that arrays in memory are indexed and augmented at once, and a worker
    process hands over one array.

    Batches hold what the split and ``transform`` give, ``index``, int ``[n]``, the rows
    of the split, and ``mask``, 1 for each. An example that ``transform`` reports as
    ``failed`` is replaced by one drawn from the split. ``skipped``, int ``[n]``, then
    names up to ``n`` such rows, followed by -1.

    Args:
      split: random access to examples.
      transform: augmentation of a batch, with its random source.
      batch_size: examples a step over all processes.
      seed: of order and augmentation.
      num_epochs: length of the run.
      start: steps that are left out, done before; the rest is what it would be.
      num_threads: threads that prepare batches ahead.
      num_workers: worker processes instead, 0 for threads in this one. Each prepares
        whole batches. They import the main module, which needs its ``__main__`` guard.
      process_index: this process.
      process_count: number of processes.
      waiting: called while no batch is there, see
        :mod:`diffkd_jax.data.pipeline.read_ahead`.

    Raises:
      ValueError: a batch larger than the split or not divisible by the processes.

    >>> from diffkd_jax.data.sources.registry import load
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
    order = examples[: steps * batch_size].repeat(num_epochs)
    local = batch_size // process_count

    orders: dict[int, np.ndarray] = {}  # of the last epochs, where there are groups

    def rows_at(number):
        if split.group is None:
            first = number * batch_size + process_index * local
            return np.array([order[i] for i in range(first, first + local)])
        epoch, step = divmod(number, steps)
        rows = orders.get(epoch)
        if rows is None:
            rows = train_rows(split.group, batch_size, seed, epoch)
            orders.clear()
            orders[epoch] = rows
        return rows[step, process_index * local :][:local]

    def fetch(number):
        rows = rows_at(number)
        draws = Draws(seed, number // steps, rows)
        return replace_failed(split, transform, draws)

    batches = grain.MapDataset.range(steps * num_epochs).map(fetch)
    return _prefetched(batches[start:], num_threads, num_workers, waiting)


def eval_batches(
    split: Split,
    transform: Callable[[Batch], Batch],
    *,
    batch_size: int,
    num_threads: int = 0,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    waiting: Waiting = patient,
) -> Batches:
    """Every example once, in order; the last batch is padded and masked.

    Where the split has groups, a batch is of one of them, and the last one of each is
    padded.

    Yields batches with ``mask``, float32 ``[n]``, 1 for examples and 0 for padding and
    for what ``transform`` reports as ``failed``; ``index`` and ``skipped`` as of
    :func:`train_batches`, past the split's end for padding. All processes yield the
    same number of batches, of the same size.

    Args:
      split: random access to examples.
      transform: resizing of a batch.
      batch_size: examples a batch over all processes, at least; rounded up to a
        multiple of their number.
      num_threads: threads that prepare batches ahead.
      num_workers: worker processes instead, 0 for threads.
      process_index: this process.
      process_count: number of processes.
      waiting: called while no batch is there, see
        :mod:`diffkd_jax.data.pipeline.read_ahead`.

    Raises:
      ValueError: a batch of no examples, or a split of which nothing decodes.
    """
    if batch_size < 1:
        raise ValueError(
            f"data.eval_batch_size: found {batch_size}, expected at least 1"
        )
    local = -(-batch_size // process_count)

    whole = local * process_count
    table = None if split.group is None else eval_rows(split.group, whole)

    def fetch(number):
        like = 0
        if table is None:
            rows = rows_of(number, local, process_index, process_count)
            filled = np.minimum(rows, split.size - 1)
        else:
            rows = table[number, process_index * local :][:local]
            like = int(table[number, 0])
            filled = np.where(rows < split.size, rows, like)
        inside = rows < split.size
        batch = transform(split.fetch(filled))
        failed = batch.pop("failed", np.zeros(local, bool))
        if failed.all():
            of = split if table is None else subset(split, alike(split, like))
            batch |= readable(of, transform, local)
        skipped = np.where(failed & inside, rows, -1)
        mask = (inside & ~failed).astype(np.float32)
        return batch | {"index": rows, "mask": mask, "skipped": skipped}

    count = -(-split.size // whole) if table is None else len(table)
    batches = grain.MapDataset.range(count).map(fetch)
    return _prefetched(batches, num_threads, num_workers, waiting)


def rows_of(
    number: int, local: int, process_index: int, process_count: int
) -> np.ndarray:
    """Rows of a split that a process evaluates in a batch; some may be past its end.

    Args:
      number: of the batch, from 0.
      local: examples of a process in a batch.
      process_index: this process.
      process_count: number of processes.

    >>> [rows_of(1, 2, i, 3).tolist() for i in range(3)]
    [[6, 7], [8, 9], [10, 11]]
    """
    return (number * process_count + process_index) * local + np.arange(local)


def _prefetched(
    batches: grain.MapDataset, num_threads: int, num_workers: int, waiting: Waiting
) -> Batches:
    options = grain.ReadOptions(
        num_threads=0 if num_workers else num_threads,
        prefetch_buffer_size=0 if num_workers else 2 * max(num_threads, 1),
    )
    elements = batches.to_iter_dataset(options)
    if not num_workers:
        return read_ahead(elements, waiting)
    for name in flags.FLAGS if not flags.FLAGS.is_parsed() else ():
        if name.startswith("grain_"):
            # Grain reads flags of its own where it starts workers, parsed or not. This
            # lets it, and leaves those of the caller as they are.
            flags.FLAGS[name].present = 1
    workers = grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=1
    )
    if shared_memory.SUPPORTED:
        elements = elements.map(shared_memory.sender())
    elements = elements.mp_prefetch(workers, worker_init_fn=start_worker)
    if shared_memory.SUPPORTED:
        elements = elements.map(shared_memory.receiver())
    return read_ahead(elements, waiting)
