"""Ends a run early and in order, on a signal or a notice of the platform.

The exit code of a command is then 128 and the signal's number, so that schedulers such
as Kubernetes and Slurm start it again.
"""

import contextlib
import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from ...data.pipeline.read_ahead import LOOK_EVERY, Waiting
from ...data.pipeline.workers import TO_END

LOG = logging.getLogger(__name__)
# ``() -> the signal to stop for, or 0``. All processes stop at the same question, so
# each has to ask as often.
Asked = Callable[[], int]


class Stopped(Exception):
    """A run ended before its last step because it was asked to; its state is saved.

    Attributes:
      exit_code: 128 and the number of the signal, as a shell has it; 143 by default, of
        SIGTERM.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM):
        super().__init__(message)
        self.number = int(number)

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class Stalled(ValueError):
    """No batch came for too long."""


def never() -> int:
    """Nothing asks to stop."""
    return 0


def stop_here(asked: Asked) -> None:
    """Raises :class:`Stopped` where that is asked for."""
    if number := asked():
        raise Stopped("stopped; the same command goes on", number)


def while_waiting(asked: Asked, most: float) -> Waiting:
    """What is done while no batch comes: looks whether to stop, says so, gives up.

    Args:
      asked: only looked at by a single process, for of several all have to ask alike.
      most: seconds without a batch.
    """

    def waiting(seconds: float) -> None:
        if jax.process_count() == 1:
            stop_here(asked)
        if seconds >= most:
            raise Stalled(
                f"data.stalled_seconds: found no batch in {seconds:.0f} s, expected "
                f"one within {most:g}; check the disk of data.path, and the decoder"
            )
        if seconds >= 60 and seconds % 60 < LOOK_EVERY:  # once a minute
            LOG.warning("no batch for %d s, waiting", seconds)

    return waiting


@contextlib.contextmanager
def on_signals() -> Iterator[Asked]:
    """Catches signals to end and, on several processes, notices of the platform.

    The signals are SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU.

    A signal that was ignored before stays ignored: ``nohup`` and shells that start a
    command in the background ask for that. On several processes any one can be told,
    and all stop at the same question; SIGTERM is JAX's there, and always stops. A
    second SIGINT interrupts at once. In the main thread only.

    Yields:
      The question whether to stop.
    """
    told: list[int] = []
    agreed: list[int] = []
    questions = itertools.count(1)
    several = jax.distributed.is_initialized()
    own = TO_END - {signal.SIGTERM} if several else TO_END
    # None is a handler of a library, which keeps its signal.
    free = [n for n in own if signal.getsignal(n) not in (signal.SIG_IGN, None)]

    def note(number, frame):
        del frame
        told_before = bool(told)
        told.append(number)  # first: no word may cost the state
        if number == signal.SIGINT:  # one after another signal is the first of its kind
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if told_before:
            return
        if several:  # JAX's handler tells the others
            os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(OSError):
            # Below the progress line of a terminal.
            os.write(2, b"\n" * os.isatty(2) + b"stopping after this step\n")

    def asked() -> int:
        if not several:
            return told[0] if told else 0
        # True at the same question on all processes, whichever one was told.
        if multihost_utils.reached_preemption_sync_point(next(questions)):
            agreed.append(told[0] if told else signal.SIGTERM)
        return agreed[0] if agreed else 0

    before = [(number, signal.signal(number, note)) for number in free]
    try:
        yield asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)
