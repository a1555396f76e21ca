"""Random draws of the augmentation, a function of seed, epoch and row alone."""

import dataclasses

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclasses.dataclass(frozen=True)
class Draws:
    """The source of randomness for each example of a batch.

    An example gets the same draws in every batch, thread and process.

    Attributes:
      seed: seed of the run.
      epoch: epoch, from 0.
      rows: int ``[n]``, rows of the split.
      attempt: number of images that were tried in place of an unreadable one.

    >>> Draws(0, 1, np.array([7, 3])).uniform(2).shape
    (2, 2)
    """

    seed: int
    epoch: int
    rows: np.ndarray
    attempt: int = 0

    def generators(self) -> list[np.random.Generator]:
        """Returns a generator for each example; each takes about 20 us."""
        return [
            np.random.default_rng((self.seed, self.epoch, row, self.attempt))
            for row in self.rows.tolist()
        ]

    def uniform(self, count: int) -> np.ndarray:
        """Returns ``count`` numbers in [0, 1) for each example, float64 ``[n, count]``.

        They come from SplitMix64 (Steele et al. 2014), whose state for an example is a
        hash of seed, epoch, attempt and row; each number takes some nanoseconds.

        Args:
          count: how many numbers.
        """
        state = np.zeros((len(self.rows), 1), np.uint64)
        for part in (self.seed, self.epoch, self.attempt, self.rows[:, None]):
            state = _mixed(state + np.asarray(part).astype(np.uint64) + GOLDEN_GAMMA)
        steps = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN_GAMMA
        return (_mixed(state + steps) >> np.uint64(11)) * 2.0**-53

    def again(self, failed: np.ndarray) -> "Draws":
        """Returns new draws for the failed examples, to try another image for each.

        Args:
          failed: bool ``[n]``.
        """
        return Draws(self.seed, self.epoch, self.rows[failed], self.attempt + 1)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Applies a bijection of 64 bits in which each bit changes half of the others."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
