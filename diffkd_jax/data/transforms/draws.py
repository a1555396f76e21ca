"""Draws of the augmentation: a function of seed, epoch and row, of nothing else."""

import dataclasses

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Draws:
    """Where the randomness of each example of a batch comes from.

    Whoever prepares an example, in whatever batch, thread or process, draws the same.

    Attributes:
      seed: of the run.
      epoch: from 0.
      rows: int ``[n]``, of the split.
      attempt: counts the pictures that have been tried in the place of an unreadable
        one.

    >>> Draws(0, 1, np.array([7, 3])).uniform(2).shape
    (2, 2)
    """

    seed: int
    epoch: int
    rows: np.ndarray
    attempt: int = 0

    def generators(self) -> list[np.random.Generator]:
        """A generator for each example; some 20 us each."""
        return [
            np.random.default_rng((self.seed, self.epoch, row, self.attempt))
            for row in self.rows.tolist()
        ]

    def uniform(self, count: int) -> np.ndarray:
        """So many numbers in [0, 1) an example, float64 ``[n, count]``; some ns each.

        By SplitMix64 (Steele et al. 2014), whose state of one example is the hash of
        what names it.
        """
        state = np.zeros((len(self.rows), 1), np.uint64)
        for part in (self.seed, self.epoch, self.attempt, self.rows[:, None]):
            state = _mixed(state + np.asarray(part).astype(np.uint64) + GOLDEN_GAMMA)
        steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN_GAMMA
        return (_mixed(state + steps) >> np.uint64(11)) * 2.0**-53

    def again(self, failed: np.ndarray) -> "Draws":
        """Those of the examples where ``failed`` is true, for another picture."""
        return Draws(self.seed, self.epoch, self.rows[failed], self.attempt + 1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which each bit moves half of the others."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
