"""The statistics of a comparison: differences between runs that are paired by seed."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Up to so many pairs all assignments of signs are counted, at most 8,192.
MOST_EXACT = 13


class PairedDifference(NamedTuple):
    """The difference between two methods that were trained with the same seeds.

    Attributes:
      mean: mean of the differences.
      standard_error: standard error of the mean; NaN for a single pair.
      p_sign_flip: p-value of the exact two-sided sign-flip test: the share of all
        assignments of signs to the differences whose mean is as far from 0. NaN for a
        single pair and for more than :data:`MOST_EXACT` pairs.
      p_t: p-value of the two-sided paired t-test; NaN if all differences are equal.

    >>> PairedDifference(0.1, 0.05, 0.25, 0.18).p_value
    0.25
    """

    mean: float
    standard_error: float
    p_sign_flip: float
    p_t: float

    @property
    def p_value(self) -> float:
        """Returns the exact p-value, or that of the t-test if there is no exact one."""
        return self.p_t if np.isnan(self.p_sign_flip) else self.p_sign_flip


def pair_by_seed(
    scores: Mapping[int, float], reference: Mapping[int, float]
) -> PairedDifference:
    """Computes the paired difference of a method from the reference.

    Args:
      scores: scores of the method by seed.
      reference: scores of the reference by seed, for the same seeds. Scores that are
        not defined make the result NaN.

    Raises:
      ValueError: the seeds differ.

    >>> result = pair_by_seed({0: 0.5, 1: 0.7}, {0: 0.4, 1: 0.5})
    >>> round(result.mean, 3), round(result.standard_error, 3), result.p_sign_flip
    (0.15, 0.05, 0.5)
    """
    if scores.keys() != reference.keys():
        raise ValueError(
            f"seeds: found {sorted(scores)} and {sorted(reference)}, expected the same"
        )
    differences = np.array([scores[seed] - reference[seed] for seed in scores])
    n, mean = len(differences), float(differences.mean())
    if n < 2 or np.isnan(mean):
        return PairedDifference(mean, np.nan, np.nan, np.nan)
    # SciPy takes a second to import, and only comparisons of several seeds need it.
    from scipy import stats

    exact = t_test = np.nan
    if n <= MOST_EXACT:
        exact = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=2**n
        ).pvalue
    spread = float(differences.std(ddof=1))
    if spread > 1e-12 * abs(mean):  # otherwise the test divides by zero
        t_test = stats.ttest_1samp(differences, 0.0).pvalue
    return PairedDifference(mean, spread / n**0.5, float(exact), float(t_test))
