"""Stops a run whose numbers are no longer finite, before they are saved."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .metrics import read_rows


def require_finite(
    rows: Mapping[int, Mapping[str, Any]], saved: Iterable[int], workdir: pathlib.Path
) -> None:
    """Raises unless losses, gradient, parameters and carried state are finite.

    Norms count as much as losses: where a fused ReLU makes zeros of NaN, the loss of
    broken weights is finite.

    Args:
      rows: metrics of :func:`diffkd_jax.diffkd_step` by step.
      saved: steps of the checkpoints.
      workdir: of the run; a checkpoint that was broken by its ``metrics.jsonl`` is not
        named as good.

    Raises:
      ValueError: names step, term, and last good checkpoint.

    >>> require_finite(  # doctest: +ELLIPSIS
    ...     {3: {"norm/params": np.nan}}, [1], pathlib.Path("no_run"))
    Traceback (most recent call last):
        ...
    ValueError: step 3: found norm/params = nan, expected a finite number; check ...
    """
    for step, row in rows.items():
        if not (broken := _broken(row)):
            continue
        written = read_rows(workdir / "metrics.jsonl")
        bad = {row["step"] for row in written if _broken(row)}
        good = max(set(saved) - bad, default="none")
        raise ValueError(
            f"step {step}: found {broken[0]} = {row[broken[0]]}, expected a finite "
            "number; check data.mean and data.std, lower the learning rate or the "
            "weight of a loss, in another --workdir (this one keeps its config); last "
            f"good checkpoint: step {good} in {workdir}"
        )


def _broken(row: Mapping[str, Any]) -> list[str]:
    """Names of losses and norms that are not finite."""
    return [
        name
        for name, value in row.items()
        if name.startswith(("loss/", "norm/")) and not np.isfinite(value)
    ]
