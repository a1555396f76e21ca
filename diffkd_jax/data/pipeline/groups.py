"""Batches of pictures of one group each, such as those that are higher than wide."""

import numpy as np

from ..split import Split


def grouped(split: Split) -> Split:
    """A split whose pictures are of two groups: 1 where they are higher than wide.

    Raises:
      ValueError: pictures whose sizes are not known before they are read.
    """
    if split.known is None:
        raise ValueError(
            "data.two_canvases: found True for pictures of which the data set does not "
            "say the sizes, expected False"
        )
    height, width = split.known.sides.T
    return split._replace(group=(height > width).astype(np.int64))


def train_rows(group: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Rows of the batches of an epoch, each of one group, in an order drawn anew.

    A group has its share of the batches, rounded up or down at random, so that over the
    epochs all examples are seen equally often. Its last batch is filled with examples
    that are in the epoch already; those that do not fill one are left out of it.

    Args:
      group: int ``[n]``, from 0.
      batch_size: examples a batch, at most n.
      seed: of the run.
      epoch: from 0.

    Returns:
      int ``[n // batch_size, batch_size]``.

    >>> group = np.array([0, 1, 0, 1, 0, 0])
    >>> group[train_rows(group, 2, 0, 0)].tolist()
    [[0, 0], [0, 0], [1, 1]]
    """
    rng = np.random.default_rng((seed, epoch, 0, 0, 1))  # none of Draws
    steps = len(group) // batch_size
    counts = np.bincount(group)
    ends = np.cumsum(counts) * steps / len(group)
    ends[-1] = steps
    batches = np.diff(np.floor(ends + rng.random()).astype(int), prepend=0)
    found = []
    for number, count in enumerate(batches):
        rows, wanted = np.flatnonzero(group == number), count * batch_size
        drawn = [rng.permutation(rows) for _ in range(-(-wanted // max(len(rows), 1)))]
        if drawn:
            found.append(np.concatenate(drawn)[:wanted].reshape(-1, batch_size))
    return rng.permutation(np.concatenate(found))


def eval_rows(group: np.ndarray, batch_size: int) -> np.ndarray:
    """Rows of batches of one group each, every example once, in order.

    Args:
      group: int ``[n]``, from 0.
      batch_size: examples a batch.

    Returns:
      int ``[batches, batch_size]``; ``n`` for padding, which is never first.

    >>> eval_rows(np.array([0, 1, 0, 0]), 2).tolist()
    [[0, 2], [3, 4], [1, 4]]
    """
    found = []
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        filling = np.full(-len(rows) % batch_size, len(group))
        found.append(np.concatenate([rows, filling]).reshape(-1, batch_size))
    return np.concatenate(found)


def alike(split: Split, row: int) -> np.ndarray:
    """Rows of a split that may be in one batch with a row of it, int ``[m]``."""
    if split.group is None:
        return np.arange(split.size)
    return np.flatnonzero(split.group == split.group[row])
