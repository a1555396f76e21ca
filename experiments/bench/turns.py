"""Taking turns on one machine: functions, or processes that are stopped in between."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def in_turn(
    sides: dict[Any, Callable[[], None]], rounds: int
) -> dict[Any, list[tuple[float, float]]]:
    """Seconds of each side by round, ``(wall, cpu)``, CPU time of all threads.

    Each is called once before it is timed, for caches and memory are those of the side
    before; the order turns from round to round.

    Args:
      sides: called one after the other, round after round.
      rounds: that count.
    """
    found: dict[Any, list[tuple[float, float]]] = {name: [] for name in sides}
    gc.collect()
    for number in range(rounds):
        for name, side in list(sides.items())[:: (-1) ** number]:
            side()
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            found[name].append(spent)
    return found


def answer(run: Callable[[], None], about: dict) -> None:
    """The timed side: says what it is, then times what it is asked to.

    Reads lines of seconds from stdin; for each it calls ``run`` for about so long and
    prints ``[wall, cpu]`` seconds a call, CPU time of all threads.
    """
    run()
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        run()  # what lies in caches after the pause is that of others
        calls, wall, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < float(line) or not calls:
            run()
            calls += 1
        spent = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps([s / calls for s in spent]), flush=True)


class Side:
    """A process that answers turns, in a session of its own so that all of it stops.

    Attributes:
      about: what it said of itself.

    Raises:
      RuntimeError: it ended before it said anything.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(
            command, env=os.environ | environment, start_new_session=True, **pipes
        )
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"ended early: {' '.join(command)}")
        self.about = json.loads(line)
        self._signal(signal.SIGSTOP)

    def _signal(self, kind: int) -> None:
        os.killpg(self.process.pid, kind)

    def turn(self, seconds: float) -> list[float]:
        """``[wall, cpu]`` seconds a call."""
        self._signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        spent = json.loads(self.process.stdout.readline())
        self._signal(signal.SIGSTOP)
        return spent

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()


def rounds(sides: dict[str, Side], count: int, seconds: float) -> Iterator[dict]:
    """``{name: [wall, cpu]}`` of each round; the order turns from round to round."""
    names = list(sides)
    for i in range(count):
        yield {n: sides[n].turn(seconds) for n in names[i % 2 :] + names[: i % 2]}
