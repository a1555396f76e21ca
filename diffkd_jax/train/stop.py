"""Ends a run early and in order, on a signal or a notice of the platform."""

import contextlib
import itertools
import logging
import os
import signal
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from ..data.reader import LOOK_EVERY, Waiting

LOG = logging.getLogger(__name__)
# ``() -> whether to stop``, the same on every process; each has to ask as often.
Asked = Callable[[], bool]


class Stopped(Exception):
    """A run ended before its last step because it was asked to; its state is saved."""


class Stalled(ValueError):
    """No batch came for too long."""


def never() -> bool:
    """Nothing asks to stop."""
    return False


def stop_here(asked: Asked) -> None:
    """Raises :class:`Stopped` where that is asked for."""
    if asked():
        raise Stopped("stopped; the same command goes on")


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
    """What SIGTERM, SIGINT and, on several processes, notices of the platform ask for.

    Of several processes any one can be told: they all stop at the same question. A
    second SIGINT interrupts at once. In the main thread only.
    """
    told: list[int] = []
    questions = itertools.count(1)
    several = jax.distributed.is_initialized()

    def note(number, frame):
        del frame
        os.write(2, b"stopping after this step\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if several:  # whose SIGTERM is JAX's, which tells the others
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            told.append(number)

    def asked() -> bool:
        if several and multihost_utils.reached_preemption_sync_point(next(questions)):
            told.append(signal.SIGTERM)
        return bool(told)

    caught = [signal.SIGINT] if several else [signal.SIGINT, signal.SIGTERM]
    before = [(number, signal.signal(number, note)) for number in caught]
    try:
        yield asked
    finally:
        for number, handler in before:
            signal.signal(number, handler)
