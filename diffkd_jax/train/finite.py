"""Checks whether a run's metrics are finite; logs what the first step shows."""

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
LARGE = 1000.0  # ratio to the task's loss above which a tap's loss gets a warning
Steps = Sequence[tuple[int, Mapping[str, Any]]]  # steps with their metrics


class NotFinite(ValueError):
    """An error for a step whose metrics are not finite.

    Attributes:
      step: number of the step.

    >>> NotFinite(3, "found loss/total = nan").step
    3
    """

    def __init__(self, step: int, text: str) -> None:
        """Creates the error with a message about a step."""
        super().__init__(f"step {step}: {text}")
        self.step = step


def require_finite(
    rows: Mapping[int, Mapping[str, Any]],
    saved: Iterable[int],
    workdir: pathlib.Path,
    skipped: int = 0,
    max_skipped: int = 0,
) -> dict[int, str]:
    """Raises an error for the first step that is not finite and may not be skipped.

    A step is finite if its losses and its norms of the gradient, the parameters and the
    carried state are. Losses alone are not enough: a fused ReLU may turn NaN into
    zeros, and then the loss of broken weights is finite.

    Args:
      rows: metrics of :func:`diffkd_jax.diffkd_step` by step.
      saved: steps of the checkpoints.
      workdir: directory of the run. A checkpoint is not called good if the row of its
        step in ``metrics.jsonl`` holds numbers that are not finite.
      skipped: number of earlier steps whose update was skipped.
      max_skipped: number of steps of the run whose update may be skipped.

    Returns:
      What was not finite, as text, by step, for the steps of ``rows`` whose update was
      skipped.

    Raises:
      NotFinite: a step is not finite. The message names the step, the metric, and the
        last good checkpoint.

    >>> require_finite(  # doctest: +ELLIPSIS
    ...     {3: {"norm/params": np.nan}}, [1], pathlib.Path("no_run"))
    Traceback (most recent call last):
        ...
    diffkd_jax.train.finite.NotFinite: step 3: found norm/params = nan, expected a ...
    """
    skipped_steps: dict[int, str] = {}
    for step, row in rows.items():
        broken = _broken(row)
        if not (broken or row.get("skipped")):
            continue
        value = "a state of the optimizer"  # which no metric shows
        if broken:
            value = f"{broken[0]} = {row[broken[0]]}"
        if row.get("skipped") and skipped + len(skipped_steps) < max_skipped:
            skipped_steps[step] = value
            continue
        written_rows = read_rows(workdir / "metrics.jsonl")
        # Scores may be broken even if all weights are finite.
        bad_steps = {
            row["step"]
            for row in written_rows
            if _broken(row, ("loss/", "norm/", "eval/"))
        }
        good_steps = set(saved) - bad_steps
        last_good = f"step {max(good_steps)}" if good_steps else "none"
        before = f" after {max_skipped} skipped steps" if max_skipped else ""
        raise NotFinite(
            step,
            f"found {value}{before}, expected a finite number; check data.mean and "
            "data.std, or go on in this workdir with a lower "
            "optimizer.learning_rate or weight of a loss, or with "
            f"train.max_skipped={2 * max_skipped or 10} to skip such steps; last good "
            f"checkpoint: {last_good} in {workdir}",
        )
    return skipped_steps


class FiniteCheck:
    """A check of the metrics of a run, which also counts skipped steps.

    Args:
      checkpoints: the checkpoint manager of the run.
      workdir: directory of the run.
      max_skipped: number of steps of the run whose update may be skipped.
      first_step: step from which the run resumes, 0 for a new run.

    Attributes:
      skipped: number of skipped steps that are in the log.
    """

    def __init__(
        self, checkpoints: Any, workdir: pathlib.Path, max_skipped: int, first_step: int
    ) -> None:
        self.checkpoints, self.workdir = checkpoints, workdir
        self.max_skipped = max_skipped
        rows = read_rows(workdir / "metrics.jsonl") if first_step else []
        rows = [row for row in rows if row["step"] <= first_step]
        counts = [row["skipped"] for row in rows if "skipped" in row]
        # The first process decides, because the others may see the file later.
        self.skipped = processes.broadcast_first(int(counts[-1]) if counts else 0)

    def fetch(self, pending: Steps) -> Steps:
        """Copies the metrics of steps from the devices, and checks them.

        Args:
          pending: steps with their metrics on the devices.

        Returns:
          The same steps, with NumPy arrays. Skipped steps are included and not counted.

        Raises:
          NotFinite: a step is not finite and its update was not skipped.
        """
        return self._check(pending)[0]

    def average(self, pending: Steps) -> dict[str, Any]:
        """Returns means of the metrics, for the log.

        It warns of the skipped steps and counts them.

        Args:
          pending: the steps since the last log, with their metrics.

        Returns:
          For each metric its mean over the steps that have it, without skipped ones. If
          steps may be skipped, ``skipped`` is their number since the run began.

        Raises:
          NotFinite: a step is not finite and its update was not skipped.
        """
        rows, skipped_steps = self._check(pending)
        for step, value in skipped_steps.items():
            LOG.warning("step %d: found %s, its update is skipped", step, value)
        self.skipped += len(skipped_steps)
        # Names stay in the order of the first step, which may be distilled.
        by_name: dict[str, list[Any]] = {}
        for step, row in rows:
            if step in skipped_steps:
                continue
            for name, metric in row.items():
                by_name.setdefault(name, []).append(metric)
        values = {name: np.mean(series, 0) for name, series in by_name.items()}
        return values | ({"skipped": self.skipped} if self.max_skipped else {})

    def _check(self, pending: Steps) -> tuple[Steps, dict[int, str]]:
        """Returns the metrics, and for each skipped step what was not finite."""
        metrics = jax.device_get([metrics for _, metrics in pending])
        rows = [(step, row) for (step, _), row in zip(pending, metrics, strict=True)]
        saved = self.checkpoints.all_steps()
        return rows, require_finite(
            dict(rows), saved, self.workdir, self.skipped, self.max_skipped
        )


def log_first_step(metrics: Mapping[str, float], taps: Iterable[str]) -> None:
    """Logs the sizes of the features of each tap and their distance after step 1.

    It warns instead if a loss is not finite, if the distance is exactly 0, or if the
    tap's weighted loss is over :data:`LARGE` times that of the task. Each of these is
    usually a mistake, but may be intended.

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
    """Returns the names of the metrics of some kinds that are not finite."""
    return [
        name
        for name, value in row.items()
        if name.startswith(kinds) and not np.all(np.isfinite(value))
    ]
