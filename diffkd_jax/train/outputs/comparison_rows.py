"""The statistics of a comparison: a line for each row and budget."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .paired_statistics import PairedDifference, pair_by_seed


class ComparedRun(NamedTuple):
    """A finished run of a comparison.

    Attributes:
      row: name of its row: a method or a variant.
      seed: seed of the run.
      budget: ``steps`` or ``time``.
      folder: name of the run's directory in that of the comparison.
      seconds: computed time of its training in seconds: steps times the measured time
        of a step. If its teacher is a student of ``none``, the training of that student
        is added. Reading of images and evaluations are not counted.
      result: the content of its ``summary.json``.
      changes: the method of the row, and what else a variant sets, as nested dicts.
    """

    row: str
    seed: int
    budget: str
    folder: str
    seconds: float
    result: Mapping[str, Any]
    changes: Mapping[str, Any] = {}


class Row(NamedTuple):
    """The statistics of one row of a comparison for one budget.

    All scores are those after the last step, not the best ones of a run.

    Attributes:
      name: name of the row: a method or a variant.
      budget: ``steps`` or ``time``.
      scores: headline score by seed.
      difference: difference from the reference; None for the reference itself.
      steps: number of steps of a run.
      seconds: time of the first seed's training, see :class:`ComparedRun`.
      cost: time of a step as a multiple of the reference's.
      changes: the method of the row, and what else a variant sets, as nested dicts.
    """

    name: str
    budget: str
    scores: Mapping[int, float]
    difference: PairedDifference | None
    steps: int
    seconds: float
    cost: float
    changes: Mapping[str, Any] = {}

    @property
    def mean(self) -> float:
        """Returns the mean of the scores."""
        return float(np.mean(list(self.scores.values())))

    @property
    def std(self) -> float | None:
        """Returns the standard deviation of the scores; None for a single one."""
        scores = list(self.scores.values())
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def summarise_runs(
    runs: Sequence[ComparedRun], costs: Mapping[str, float]
) -> list[Row]:
    """Computes the statistics of a comparison.

    Args:
      runs: the runs.
      costs: time of a step as a multiple of the reference's, by row. The first row
        is the reference.

    Returns:
      A value for each budget and row, in the order of the runs.
    """
    groups: dict[tuple[str, str], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((run.budget, run.row), []).append(run)
    score = f"final_{runs[0].result['headline']}"
    scores = {
        key: {run.seed: as_number(run.result[score]) for run in group}
        for key, group in groups.items()
    }
    reference = next(iter(costs))
    return [
        Row(
            name,
            budget,
            scores[budget, name],
            None
            if name == reference
            else pair_by_seed(scores[budget, name], scores[budget, reference]),
            int(group[0].result["steps"]),
            group[0].seconds,
            costs[name],
            group[0].changes,
        )
        for (budget, name), group in groups.items()
    ]


def is_variant(row: Row) -> bool:
    """Returns whether a row differs from the method of its name.

    Args:
      row: the row.

    >>> is_variant(Row("half", "steps", {}, None, 8, 2.0, 1.0, {"method": "kd"}))
    True
    """
    return dict(row.changes) not in ({}, {"method": row.name})


def as_number(value: float | None) -> float:
    """Returns a score as a number: NaN for None, which JSON writes as null.

    Args:
      value: the score, or None.

    >>> as_number(None)
    nan
    """
    return float("nan") if value is None else value


def row_numbers(row: Row) -> dict[str, Any]:
    """Returns the numbers of a row by name, for a file of JSON lines.

    Args:
      row: the row.

    >>> row = Row("none", "steps", {0: 0.5, 1: 0.7}, None, 8, 2.0, 1.0)
    >>> row_numbers(row)["mean"], row_numbers(row)["n"]
    (0.6, 2)
    """
    numbers = {
        "method": row.name,
        "budget": row.budget,
        "n": len(row.scores),
        "mean": row.mean,
        "std": row.std,
        "steps": row.steps,
        "seconds": row.seconds,
        "cost_of_a_step": row.cost,
        "scores": {str(seed): score for seed, score in row.scores.items()},
    }
    if is_variant(row):
        numbers["variant"] = row.changes
    if row.difference is not None:
        numbers["difference"] = row.difference._asdict()
    return numbers
