"""Where numbers go: a progress line, ``metrics.jsonl``, TensorBoard events."""

import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from .sharding import is_primary


class Writer:
    """Appends rows to ``metrics.jsonl`` and TensorBoard events of a workdir.

    On resuming, rows after ``step`` are dropped: they will be written again. Of several
    processes the first one writes.
    """

    def __init__(self, workdir: pathlib.Path, step: int = 0):
        if not is_primary():
            return
        self.path = workdir / "metrics.jsonl"
        kept = [row for row in read_rows(self.path) if row["step"] <= step]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)
        self.events = SummaryWriter(str(workdir / "events"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Writes scalars and histograms (lists of counts) of one step."""
        if not is_primary():
            return
        values = {k: np.asarray(v).tolist() for k, v in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if not isinstance(value, list):
                self.events.add_scalar(name, value, step)

    def close(self) -> None:
        if is_primary():
            self.events.close()


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """A line with step, rate, time left and losses; redrawn on a terminal."""

    def __init__(self, name: str, step: int, total_steps: int, batch_size: int):
        self.name, self.total, self.batch_size = name, total_steps, batch_size
        self.start_step, self.start_time = step, time.monotonic()

    def images_per_second(self, step: int) -> float:
        elapsed = max(time.monotonic() - self.start_time, 1e-9)
        return (step - self.start_step) * self.batch_size / elapsed

    def show(self, step: int, values: dict[str, float]) -> None:
        rate = self.images_per_second(step)
        left = (self.total - step) * self.batch_size / rate if rate else None
        losses = "  ".join(
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in values.items()
            if name.startswith("loss/")
        )
        print_line(
            f"{self.name}  step {step}/{self.total}  {rate:.0f} images/s  "
            f"ETA {'?' if left is None else _clock(left)}  {losses}",
            passing=step < self.total,
        )


def print_line(text: str, *, passing: bool = False) -> None:
    """Prints a line; a passing one is overwritten by the next on a terminal.

    Of several processes the first one prints.
    """
    if not is_primary():
        return
    if sys.stdout.isatty():
        sys.stdout.write("\r\x1b[2K" + text + ("" if passing else "\n"))
        sys.stdout.flush()
    else:
        print(text, flush=True)


def print_values(label: str, values: dict[str, float]) -> None:
    """Prints the result of an evaluation on one line."""
    print_line(f"{label}  " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
