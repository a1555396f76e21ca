"""Batches of images of one group, such as images that are higher than wide."""

import numpy as np

from ..split import Split


def group_by_shape(split: Split) -> Split:
    """Returns a split with two groups: 1 for images higher than wide, 0 for others.

    Args:
      split: a split whose image sizes are known.

    Raises:
      ValueError: the sizes are not known before images are read.

    >>> from diffkd_jax.data.split import BoxSummary
    >>> number, sides = np.ones(2, np.int32), np.array([[4, 6], [6, 4]])
    >>> summary = BoxSummary(number, number, sides, number, "here")
    >>> group_by_shape(Split(2, lambda rows: {}, box_summary=summary)).group
    array([0, 1])
    """
    if split.box_summary is None:
        raise ValueError(
            "data.two_canvases: found True for images whose sizes the data set does "
            "not state, expected False"
        )
    height, width = split.box_summary.sides.T
    return split._replace(group=(height > width).astype(np.int64))


def train_rows(group: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the rows of the batches of an epoch, each of one group, in random order.

    Each group has its share of the batches, rounded up or down at random, so that over
    the epochs all examples occur equally often. The last batch of a group is filled
    with examples that already are in the epoch; examples that do not fill a batch are
    left out.

    Args:
      group: int ``[n]``, group of each example, from 0.
      batch_size: number of examples in a batch, at most n.
      seed: seed of the run.
      epoch: epoch, from 0.

    Returns:
      int ``[n // batch_size, batch_size]``.

    >>> group = np.array([0, 1, 0, 1, 0, 0])
    >>> group[train_rows(group, 2, 0, 0)].tolist()
    [[0, 0], [0, 0], [1, 1]]
    """
    # No seed of ``Draws`` has five numbers.
    rng = np.random.default_rng((seed, epoch, 0, 0, 1))
    steps = len(group) // batch_size
    counts = np.bincount(group)
    ends = np.cumsum(counts) * steps / len(group)
    ends[-1] = steps
    batches = np.diff(np.floor(ends + rng.random()).astype(int), prepend=0)
    parts = []
    for number, count in enumerate(batches):
        rows, wanted = np.flatnonzero(group == number), count * batch_size
        drawn = [rng.permutation(rows) for _ in range(-(-wanted // max(len(rows), 1)))]
        if drawn:
            parts.append(np.concatenate(drawn)[:wanted].reshape(-1, batch_size))
    return rng.permutation(np.concatenate(parts))


def eval_rows(group: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the rows of batches of one group each: every example once, in order.

    Args:
      group: int ``[n]``, group of each example, from 0.
      batch_size: number of examples in a batch.

    Returns:
      int ``[batches, batch_size]``; ``n`` for padding, which is never first.

    >>> eval_rows(np.array([0, 1, 0, 0]), 2).tolist()
    [[0, 2], [3, 4], [1, 4]]
    """
    parts = []
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        filling = np.full(-len(rows) % batch_size, len(group))
        parts.append(np.concatenate([rows, filling]).reshape(-1, batch_size))
    return np.concatenate(parts)


def rows_of_same_group(split: Split, row: int) -> np.ndarray:
    """Returns the rows of a split that are of the group of one row, int ``[m]``.

    Args:
      split: any split; without groups, all rows are returned.
      row: the row.
    """
    if split.group is None:
        return np.arange(split.size)
    return np.flatnonzero(split.group == split.group[row])
