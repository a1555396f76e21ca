"""Stops a run early, with its state saved, on a signal or a preemption notice.

:func:`catch_signals` gives a function ``should_stop``. The trainer calls it between
steps and batches, and :func:`stop_if_requested` turns its answer into :class:`Stopped`,
on which the loop saves its state. The exit code of a command is then 128 plus the
signal's number, so that schedulers such as Kubernetes and Slurm start it again.
"""

import contextlib
import itertools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from ...data.pipeline.read_ahead import LOOK_EVERY, Waiting
from ...data.pipeline.workers import TO_END

LOG = logging.getLogger(__name__)
# A wrapper that forwards Ctrl-C sends a SIGINT beside that of the terminal.
SAME_SECONDS = 1.0  # within which two SIGINTs count as one
# ``() -> number of the signal to stop for, or 0``. It answers all processes in the same
# call, so each process has to call it equally often.
ShouldStop = Callable[[], int]


class Stopped(Exception):
    """An exception for a run that was stopped before its last step; its state is saved.

    Attributes:
      number: number of the signal; SIGTERM by default.
      exit_code: 128 plus that number, as in a shell; 143 by default.

    >>> Stopped("stopped", signal.SIGINT).exit_code
    130
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        """Creates the exception for the signal of this number."""
        super().__init__(message)
        self.number = int(number)

    @property
    def exit_code(self) -> int:
        """Returns the exit code of the command."""
        return 128 + self.number


class Stalled(ValueError):
    """An error for a run that got no batch for too long."""


def never() -> int:
    """Returns 0; the ``should_stop`` of callers that never stop a run early.

    >>> never()
    0
    """
    return 0


def stop_if_requested(should_stop: ShouldStop) -> None:
    """Raises :class:`Stopped` if a stop was requested.

    Args:
      should_stop: returns the number of the signal to stop for, or 0.

    Raises:
      Stopped: a stop was requested.

    >>> stop_if_requested(never)
    """
    if number := should_stop():
        raise Stopped("stopped; the same command goes on", number)


def make_waiting(should_stop: ShouldStop, limit: float) -> Waiting:
    """Returns a function for the data pipeline to call while it waits for a batch.

    The function raises :class:`Stopped` if a stop was requested, logs a warning once a
    minute, and raises :class:`Stalled` at the limit.

    Args:
      should_stop: returns the number of the signal to stop for, or 0. It is not called
        if there are several processes: they do not wait equally often.
      limit: time without a batch in seconds, after which the function raises.

    Returns:
      ``seconds without a batch -> None``.

    Raises:
      Stalled: later, when the function is called.
    """

    def waiting(seconds: float) -> None:
        if jax.process_count() == 1:
            stop_if_requested(should_stop)
        if seconds >= limit:
            raise Stalled(
                f"data.stalled_seconds: found no batch in {seconds:.0f} s, expected "
                f"one within {limit:g}; check the disk of data.path, and the decoder"
            )
        if seconds >= 60 and seconds % 60 < LOOK_EVERY:  # once a minute
            LOG.warning("no batch for %d s, waiting", seconds)

    return waiting


@contextlib.contextmanager
def catch_signals(clock: Callable[[], float] = time.monotonic) -> Iterator[ShouldStop]:
    """Catches signals and, with several processes, preemption notices of the platform.

    The signals are SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU. A signal that
    was ignored before stays ignored: ``nohup`` and shells that start a command in the
    background rely on that. A second SIGINT interrupts at once, unless it comes within
    :data:`SAME_SECONDS` of the first one. Call it in the main thread.

    If there are several processes and one of them gets a signal, all stop at the same
    call of the yielded function. JAX handles SIGTERM then, so SIGTERM stops the run
    even if it was ignored before.

    Args:
      clock: function that returns the time in seconds.

    Yields:
      The function ``should_stop``. It returns the number of the signal to stop for, or
      0.

    >>> with catch_signals() as should_stop:
    ...     should_stop()
    0
    """
    received: list[int] = []
    interrupted: list[float] = []  # times of SIGINTs
    agreed: list[int] = []
    calls = itertools.count(1)
    several = jax.distributed.is_initialized()
    candidates = TO_END - {signal.SIGTERM} if several else TO_END
    # A handler is None if a library written in C handles the signal, which keeps it.
    numbers = [
        n for n in candidates if signal.getsignal(n) not in (signal.SIG_IGN, None)
    ]

    def note(number: int, frame: Any) -> None:
        is_first = not received
        received.append(number)  # before any output, which may fail
        if number == signal.SIGINT:
            interrupted.append(clock())
            if interrupted[-1] - interrupted[0] > SAME_SECONDS:
                signal.default_int_handler(number, frame)
        if not is_first:
            return
        if several:  # JAX's handler of SIGTERM tells the other processes
            os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(OSError):
            # Below the progress line of a terminal.
            os.write(2, b"\n" * os.isatty(2) + b"stopping after this step\n")

    def should_stop() -> int:
        if not several:
            return received[0] if received else 0
        # True at the same call on all processes, whichever one got the signal.
        if multihost_utils.reached_preemption_sync_point(next(calls)):
            agreed.append(received[0] if received else signal.SIGTERM)
        return agreed[0] if agreed else 0

    before = [(number, signal.signal(number, note)) for number in numbers]
    try:
        yield should_stop
    finally:
        for number, handler in before:
            signal.signal(number, handler)
