"""Where numbers go: a progress line, ``metrics.jsonl``, TensorBoard events."""

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
    """Appends rows to ``metrics.jsonl`` and TensorBoard events of a workdir.

    On resuming, rows after ``step`` are dropped: they will be written again. Of several
    processes the first one writes.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0):
        self.path = workdir / "metrics.jsonl"
        kept = [row for row in read_rows(self.path) if row["step"] <= step]
        last = [row for row in kept if row["step"] == step]
        self.begun = {(step, name) for row in last for name in row}
        if not is_primary():
            return
        write_whole(self.path, "".join(f"{valid_json.dumps(row)}\n" for row in kept))
        (workdir / "events").mkdir(exist_ok=True)
        # Not SummaryWriter, whose thread writes a traceback where the disk is full.
        self.events = EventsWriter(str(workdir / "events/events"))
        restart = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step + 1, session_log=restart)  # later events are not shown

    def holds(self, step: int, prefix: str) -> bool:
        """Whether an earlier call wrote such values of the step at which it stopped."""
        return any(at == step and name.startswith(prefix) for at, name in self.begun)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes scalars and histograms (lists of counts) of one step."""
        if not is_primary():
            return
        values = {k: np.asarray(v).tolist() for k, v in values.items()}
        with self.path.open("a") as file:
            file.write(f"{valid_json.dumps({'step': step, **values})}\n")
        for name, value in values.items():
            # TensorBoard complains of undefined scores and shows none.
            if not isinstance(value, list) and math.isfinite(value):
                self._add(step, summary=scalar(name, value))
        self.events.flush()

    def _add(self, step: int, **content: Any) -> None:
        event = event_pb2.Event(wall_time=time.time(), step=step, **content)
        self.events.write_event(event)

    def close(self) -> None:
        if is_primary():
            self.events.close()


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; lines that are none are named and left out.

    An undefined number, null in the file, is NaN. A last line cut short is one that
    was being written, and is not worth a word.
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
        LOG.warning("%s: left out %d lines that are no rows: %s", path, len(bad), bad)
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
    """A line with step, rate, time left and losses; redrawn on a terminal."""

    def __init__(self, name: str, step: int, total_steps: int, batch_size: int):
        self.name, self.total, self.batch_size = name, total_steps, batch_size
        self.start_step, self.start_time = step, time.monotonic()

    def leave_out(self, seconds: float) -> None:
        """Takes a step that took so long for its compilation out of the rate."""
        self.start_step += 1
        self.start_time += seconds

    def images_per_second(self, step: int) -> float:
        elapsed = max(time.monotonic() - self.start_time, 1e-9)
        return (step - self.start_step) * self.batch_size / elapsed

    def show(self, step: int, values: dict[str, float]) -> None:
        rate = self.images_per_second(step)
        left = (self.total - step) * self.batch_size / rate if rate else None
        losses = {k[5:]: value for k, value in values.items() if k.startswith("loss/")}
        # A terminal cuts the line, so what matters most comes first.
        first = lambda name: (name != "total", not name.startswith("task"))
        shown = "  ".join(f"{k} {losses[k]:.4g}" for k in sorted(losses, key=first))
        text = (
            f"step {step}/{self.total}  {rate:.0f} images/s  "
            f"ETA {'?' if left is None else _clock(left)}  {shown}"
        )
        if is_primary():
            console.draw_progress(self.name, text, step, self.total)


def print_line(text: str) -> None:
    """Prints a line; of several processes the first one does."""
    if is_primary():
        console.say(text)


def print_values(label: str, values: dict[str, float]) -> None:
    """Prints the result of an evaluation on one line."""
    print_line(f"{label}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
