"""Batches from splits, by Grain: deterministic, sharded, and from any step on."""

from collections.abc import Callable

import grain
import numpy as np
from absl import flags

from ..split import Split, subset
from ..transforms.draws import Draws
from . import shared_memory
from .groups import eval_rows, rows_of_same_group, train_rows
from .read_ahead import Batch, Batches, Waiting, patient, read_ahead
from .unreadable import repeat_readable, replace_failed
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
    """Yields the shuffled training batches of this process, from any step on.

    Each epoch has its own order, a function of ``(seed, epoch)``. Examples that do not
    fill a batch are left out of that epoch. If the split has groups, all examples of a
    batch are of one group, see :func:`diffkd_jax.data.pipeline.groups.train_rows`. A
    process receives the part of each batch that its devices hold. Draws for an example
    are a function of ``(seed, epoch, row)``, so any number of processes train on the
    same batches. One element of the Grain data set is a whole batch: arrays in memory
    are indexed and augmented together, and a worker process hands over one array.

    Batches hold what the split and ``transform`` return; ``index``, int ``[n]``, rows
    of the split; and ``mask``, 1 for each example. An example that ``transform`` marks
    as ``failed`` is replaced by one drawn from the split. ``skipped``, int ``[n]``,
    then holds up to ``n`` such rows, followed by -1.

    Args:
      split: random access to examples.
      transform: augmentation of a batch, ``(batch, draws) -> batch``.
      batch_size: number of examples in a step, over all processes.
      seed: seed of order and augmentation.
      num_epochs: length of the run, in epochs.
      start: number of steps to skip, which were done before. The remaining batches are
        the same as without it.
      num_threads: number of threads that prepare batches ahead.
      num_workers: number of worker processes to use instead; 0 uses threads. Each
        worker prepares whole batches. Workers import the main module, so it needs its
        ``__main__`` guard.
      process_index: index of this process.
      process_count: number of processes.
      waiting: called while no batch is ready, see
        :mod:`diffkd_jax.data.pipeline.read_ahead`.

    Raises:
      ValueError: the batch size is larger than the split, or not divisible by the
        number of processes.

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

    orders: dict[int, np.ndarray] = {}  # of the current epoch, if there are groups

    def rows_at(number: int) -> np.ndarray:
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

    def fetch(number: int) -> Batch:
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
    """Yields each example once, in order; the last batch is padded and masked.

    If the split has groups, all examples of a batch are of one group, and the last
    batch of each group is padded.

    Batches hold ``mask``, float32 ``[n]``, 1 for examples and 0 for padding and for
    examples that ``transform`` marks as ``failed``; ``index`` and ``skipped`` are as of
    :func:`train_batches`, with rows past the end of the split for padding. All
    processes yield the same number of batches of the same size.

    Args:
      split: random access to examples.
      transform: resizing of a batch, ``batch -> batch``.
      batch_size: smallest number of examples in a batch over all processes; it is
        rounded up to a multiple of their number.
      num_threads: number of threads that prepare batches ahead.
      num_workers: number of worker processes to use instead; 0 uses threads.
      process_index: index of this process.
      process_count: number of processes.
      waiting: called while no batch is ready, see
        :mod:`diffkd_jax.data.pipeline.read_ahead`.

    Raises:
      ValueError: the batch size is below 1, or no example of the split decodes.

    >>> image = np.zeros((3, 2, 2, 1), np.uint8)
    >>> split = Split(3, lambda rows: {"image": image[rows]})
    >>> [batch["mask"].tolist() for batch in eval_batches(split, dict, batch_size=2)]
    [[1.0, 1.0], [1.0, 0.0]]
    """
    if batch_size < 1:
        raise ValueError(
            f"data.eval_batch_size: found {batch_size}, expected at least 1"
        )
    local = -(-batch_size // process_count)

    total = local * process_count
    table = None if split.group is None else eval_rows(split.group, total)

    def fetch(number: int) -> Batch:
        like = 0
        if table is None:
            rows = rows_of(number, local, process_index, process_count)
            valid_rows = np.minimum(rows, split.size - 1)
        else:
            rows = table[number, process_index * local :][:local]
            like = int(table[number, 0])
            valid_rows = np.where(rows < split.size, rows, like)
        inside = rows < split.size
        batch = transform(split.fetch(valid_rows))
        failed = batch.pop("failed", np.zeros(local, bool))
        if failed.all():
            candidates = subset(split, rows_of_same_group(split, like))
            batch |= repeat_readable(candidates, transform, local)
        skipped = np.where(failed & inside, rows, -1)
        mask = (inside & ~failed).astype(np.float32)
        return batch | {"index": rows, "mask": mask, "skipped": skipped}

    count = -(-split.size // total) if table is None else len(table)
    batches = grain.MapDataset.range(count).map(fetch)
    return _prefetched(batches, num_threads, num_workers, waiting)


def rows_of(
    number: int, local: int, process_index: int, process_count: int
) -> np.ndarray:
    """Returns the rows of a split that a process evaluates in a batch.

    Rows past the end of the split are padding.

    Args:
      number: number of the batch, from 0.
      local: number of examples of a process in a batch.
      process_index: index of this process.
      process_count: number of processes.

    >>> [rows_of(1, 2, i, 3).tolist() for i in range(3)]
    [[6, 7], [8, 9], [10, 11]]
    """
    return (number * process_count + process_index) * local + np.arange(local)


def _prefetched(
    batches: grain.MapDataset, num_threads: int, num_workers: int, waiting: Waiting
) -> Batches:
    """Returns an iterator that prepares batches ahead, in threads or processes."""
    options = grain.ReadOptions(
        num_threads=0 if num_workers else num_threads,
        prefetch_buffer_size=0 if num_workers else 2 * max(num_threads, 1),
    )
    elements = batches.to_iter_dataset(options)
    if not num_workers:
        return read_ahead(elements, waiting)
    for name in flags.FLAGS if not flags.FLAGS.is_parsed() else ():
        if name.startswith("grain_"):
            # Grain reads its own flags when it starts workers, whether flags are parsed
            # or not. Marking them allows this without parsing the caller's flags.
            flags.FLAGS[name].present = 1
    workers = grain.MultiprocessingOptions(
        num_workers=num_workers, per_worker_buffer_size=1
    )
    if shared_memory.SUPPORTED:
        elements = elements.map(shared_memory.make_sender())
    elements = elements.mp_prefetch(workers, worker_init_fn=start_worker)
    if shared_memory.SUPPORTED:
        elements = elements.map(shared_memory.make_receiver())
    return read_ahead(elements, waiting)
