"""Writes metrics: a progress line, ``metrics.jsonl`` and TensorBoard events."""

import json
import logging
import math
import pathlib
import time
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from ...io import console, valid_json
from ..cluster.processes import is_primary
from ..workdir.directory import write_whole

LOG = logging.getLogger(__name__)


class Writer:
    """A writer of rows to ``metrics.jsonl`` and of TensorBoard events in a workdir.

    If the run resumes, rows after ``step`` are dropped, because they will be written
    again. If there are several processes, only the first one writes.

    Args:
      workdir: directory of the run.
      step: step from which the run resumes, 0 for a new run.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0) -> None:
        """Drops rows after ``step`` and opens the files."""
        self.path = workdir / "metrics.jsonl"
        rows = [row for row in read_rows(self.path) if row["step"] <= step]
        last = [row for row in rows if row["step"] == step]
        self.written = {(step, name) for row in last for name in row}
        if not is_primary():
            return
        write_whole(self.path, "".join(f"{valid_json.dumps(row)}\n" for row in rows))
        (workdir / "events").mkdir(exist_ok=True)
        # Not SummaryWriter, whose thread prints a traceback if the disk is full.
        self.events = EventsWriter(str(workdir / "events/events"))
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step + 1, session_log=restart)  # later events are not shown

    def has_row(self, step: int, prefix: str) -> bool:
        """Returns whether some values of a step were in the file when it was opened.

        It only knows the step from which the run resumes; for others it returns False.

        Args:
          step: number of updates.
          prefix: beginning of the values' names, such as ``eval/``.
        """
        return any(i == step and name.startswith(prefix) for i, name in self.written)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes scalars and histograms of one step.

        Args:
          step: number of updates.
          values: numbers by name, or lists of counts for histograms.
        """
        if not is_primary():
            return
        values = {k: np.asarray(v).tolist() for k, v in values.items()}
        with self.path.open("a") as file:
            file.write(f"{valid_json.dumps({'step': step, **values})}\n")
        for name, value in values.items():
            # TensorBoard cannot show undefined scores.
            if not isinstance(value, list) and math.isfinite(value):
                self._add(step, summary=scalar(name, value))
        self.events.flush()

    def _add(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        self.events.write_event(event)

    def close(self) -> None:
        """Closes the file of TensorBoard events."""
        if is_primary():
            self.events.close()


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of a ``metrics.jsonl``; logs and drops lines that are not rows.

    An undefined number, null in the file, becomes NaN. A last line that is cut short is
    dropped without a warning, because it was being written when the run ended.

    Args:
      path: the file, which need not exist.

    Returns:
      The rows in order, each with its ``step``.

    >>> read_rows(pathlib.Path("no_run/metrics.jsonl"))
    []
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if _is_row(row):
            rows.append(valid_json.undefined_as_nan(row))
        else:
            bad.append(number)
    if bad and bad != [len(lines)]:
        LOG.warning("%s: left out %d lines that are not rows: %s", path, len(bad), bad)
    return rows


def _is_row(row: Any) -> bool:
    """Returns whether a row holds numbers or null by name, lists for histograms."""
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    is_number = lambda value: value is None or type(value) in (int, float)
    return all(
        isinstance(value, list) and all(map(is_number, value))
        if name.endswith("histogram")
        else is_number(value)
        for name, value in row.items()
    )


class Progress:
    """A progress line: step, speed, remaining time and losses.

    On a terminal it is drawn again in the same place.

    Args:
      name: title of the run.
      step: step from which the speed is measured.
      total_steps: updates in all.
      batch_size: examples for each update.
    """

    def __init__(self, name: str, step: int, total_steps: int, batch_size: int) -> None:
        self.name, self.total, self.batch_size = name, total_steps, batch_size
        self.start_step, self.start_time = step, time.monotonic()

    def leave_out(self, seconds: float, steps: int = 1) -> None:
        """Leaves time out of the speed, such as that of a step that was compiled.

        Args:
          seconds: the time.
          steps: number of steps in it.
        """
        self.start_step += steps
        self.start_time += seconds

    def images_per_second(self, step: int) -> float:
        """Returns the training speed so far.

        Args:
          step: number of updates so far.
        """
        elapsed = max(time.monotonic() - self.start_time, 1e-9)
        return (step - self.start_step) * self.batch_size / elapsed

    def show(self, step: int, values: dict[str, float]) -> None:
        """Draws the line.

        Args:
          step: number of updates so far.
          values: means of metrics by name, of which the losses are shown.
        """
        rate = self.images_per_second(step)
        seconds = (self.total - step) * self.batch_size / rate if rate else None
        time_left = "?" if seconds is None else _format_duration(seconds)
        losses = {k[5:]: value for k, value in values.items() if k.startswith("loss/")}
        # A terminal cuts the line, so the most important losses come first.
        first = lambda name: (name != "total", not name.startswith("task"))
        losses_text = "  ".join(
            f"{k} {losses[k]:.4g}" for k in sorted(losses, key=first)
        )
        text = (
            f"step {step}/{self.total}  {rate:.0f} images/s  "
            f"ETA {time_left}  {losses_text}"
        )
        if is_primary():
            console.draw_progress(self.name, text, step, self.total)


def print_line(text: str) -> None:
    """Prints a line; if there are several processes, only the first one prints.

    Args:
      text: the line.
    """
    if is_primary():
        console.say(text)


def print_values(title: str, values: dict[str, float]) -> None:
    """Prints the scores of an evaluation on one line.

    Args:
      title: beginning of the line.
      values: scores by name.

    >>> print_values("teacher", {"score": 0.5})
    teacher  score 0.5000
    """
    print_line(f"{title}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))


def _format_duration(seconds: float) -> str:
    """Returns a duration as ``h:mm:ss`` or ``m:ss``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
