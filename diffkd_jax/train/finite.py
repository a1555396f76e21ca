"""Checks of a run's numbers: whether they are finite, and what the first step shows."""

import logging
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .cluster import processes
from .outputs.metrics import read_rows

LOG = logging.getLogger(__name__)
LARGE = 1000.0  # times the task's loss: a tap whose loss is above gets a warning
Steps = Sequence[tuple[int, Mapping[str, Any]]]  # with their metrics


class NotFinite(ValueError):
    """A step whose numbers are not finite.

    Attributes:
      step: its number.
    """

    def __init__(self, step: int, text: str):
        super().__init__(f"step {step}: {text}")
        self.step = step


def require_finite(
    rows: Mapping[int, Mapping[str, Any]],
    saved: Iterable[int],
    workdir: pathlib.Path,
    skipped: int = 0,
    most: int = 0,
) -> dict[int, str]:
    """Raises unless losses, gradient, parameters and carried state are finite.

    Norms count as much as losses: where a fused ReLU makes zeros of NaN, the loss of
    broken weights is finite.

    Args:
      rows: metrics of :func:`diffkd_jax.diffkd_step` by step.
      saved: steps of the checkpoints.
      workdir: of the run; a checkpoint that was broken by its ``metrics.jsonl`` is not
        named as good.
      skipped: steps before these whose update was left out.
      most: steps in all whose update may be left out.

    Returns:
      What was found at the steps of ``rows`` that were left out.

    Raises:
      NotFinite: names step, term, and last good checkpoint.

    >>> require_finite(  # doctest: +ELLIPSIS
    ...     {3: {"norm/params": np.nan}}, [1], pathlib.Path("no_run"))
    Traceback (most recent call last):
        ...
    diffkd_jax.train.finite.NotFinite: step 3: found norm/params = nan, expected a ...
    """
    found: dict[int, str] = {}
    for step, row in rows.items():
        broken = _broken(row)
        if not (broken or row.get("skipped")):
            continue
        what = "a state of the optimizer"  # which no metric shows
        if broken:
            what = f"{broken[0]} = {row[broken[0]]}"
        if row.get("skipped") and skipped + len(found) < most:
            found[step] = what
            continue
        written = read_rows(workdir / "metrics.jsonl")
        # Weights that are finite may give scores that are not.
        bad = {
            row["step"] for row in written if _broken(row, ("loss/", "norm/", "eval/"))
        }
        good = max(set(saved) - bad, default="none")
        before = f" after {most} steps that were left out" if most else ""
        raise NotFinite(
            step,
            f"found {what}{before}, expected a finite number; check data.mean and "
            "data.std, or go on in this workdir with a lower "
            "optimizer.learning_rate or weight of a loss, or with "
            f"train.max_skipped={2 * most or 10} to leave out such steps; last good "
            f"checkpoint: step {good} in {workdir}",
        )
    return found


class Finite:
    """The metrics of a run's steps, fetched and looked at.

    Args:
      checkpoints: of the run.
      workdir: of the run.
      most: steps in all whose update may be left out.
      first: step that the run goes on at.
    """

    def __init__(self, checkpoints: Any, workdir: pathlib.Path, most: int, first: int):
        self.checkpoints, self.workdir, self.most = checkpoints, workdir, most
        written = read_rows(workdir / "metrics.jsonl") if first else []
        counts = [
            r["skipped"] for r in written if r["step"] <= first and "skipped" in r
        ]
        # The first process's, for others may see the file later.
        self.skipped = processes.as_first(int(counts[-1]) if counts else 0)

    def rows(self, pending: Steps) -> Steps:
        """The same metrics, as arrays of this process.

        Raises:
          NotFinite: of a step whose update was not left out.
        """
        return self._looked_at(pending)[0]

    def logged(self, pending: Steps) -> dict[str, Any]:
        """Mean of each since the last log, over the steps that have it.

        Those left out are not among them.
        """
        rows, left_out = self._looked_at(pending)
        for step, what in left_out.items():
            LOG.warning("step %d: found %s, its update is left out", step, what)
        self.skipped += len(left_out)
        kept = [row for step, row in rows if step not in left_out]
        # Not every step is distilled, and the first may be: its names come first.
        by_name: dict[str, list] = {}
        for row in kept:
            for name, value in row.items():
                by_name.setdefault(name, []).append(value)
        values = {name: np.mean(each, 0) for name, each in by_name.items()}
        return values | ({"skipped": self.skipped} if self.most else {})

    def _looked_at(self, pending: Steps) -> tuple[Steps, dict[int, str]]:
        metrics = jax.device_get([metrics for _, metrics in pending])
        rows = [(step, row) for (step, _), row in zip(pending, metrics, strict=True)]
        saved = self.checkpoints.all_steps()
        return rows, require_finite(
            dict(rows), saved, self.workdir, self.skipped, self.most
        )


def log_first_step(metrics: Mapping[str, float], taps: Iterable[str]) -> None:
    """Logs the size of both sides of each tap and their distance after the first step.

    A tap gets a warning if a loss is not finite, if the distance is exactly 0, or if
    the weighted loss is over :data:`LARGE` times that of the task. Each of these is
    usually a mistake, but may be meant.

    Args:
      metrics: numbers of the first step by name.
      taps: names of the taps.

    >>> sizes = {"rms/x/student": 1.0, "rms/x/teacher": 1.0}
    >>> log_first_step({"loss/task": 1.0, "loss/x/distance": 0.0, **sizes}, ["x"])
    """
    weighted = {
        name: metrics.get(f"weighted/{name}", value)
        for name, value in ((k.removeprefix("loss/"), v) for k, v in metrics.items())
        if f"loss/{name}" in metrics
    }
    task = sum(v for name, v in weighted.items() if name.partition("/")[0] == "task")
    for tap in taps:
        name = f"{tap}/distance"
        distance = metrics[f"loss/{name}"]
        student, teacher = (metrics[f"rms/{tap}/{x}"] for x in ("student", "teacher"))
        text = (
            f"tap {tap!r}: first distance {distance:.4g} between a student of "
            f"{student:.4g} and a teacher of {teacher:.4g}, root mean squares"
        )
        if not math.isfinite(weighted[name] + task):
            LOG.warning("%s, and losses of %.4g beside the task's %.4g", text,
                        weighted[name], task)  # fmt: skip
        elif distance == 0:
            LOG.warning("%s: both sides are the same, or nothing is compared", text)
        elif 0 < LARGE * task < weighted[name]:
            LOG.warning(
                "%s; its weighted loss of %.4g is over %d times the task's, %.4g",
                text,
                weighted[name],
                LARGE,
                task,
            )
        else:
            LOG.info(text)


def _broken(
    row: Mapping[str, Any], kinds: tuple[str, ...] = ("loss/", "norm/")
) -> list[str]:
    """Names of losses and norms that are not finite."""
    return [
        name
        for name, value in row.items()
        if name.startswith(kinds) and not np.all(np.isfinite(value))
    ]
