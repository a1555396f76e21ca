"""Reads batches in a thread, so that their consumer can act while it waits."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any

from .workers import block_end_signals

Batch = dict[str, Any]
# A queue of batches; an entry without one is the end, or the error that ended it.
Ready = queue.Queue[tuple[Batch | None, BaseException | None]]
Batches = Generator[Batch]  # close it if it is not exhausted
# Called with the seconds without a batch; may raise to stop waiting.
Waiting = Callable[[float], None]
LOOK_EVERY = 5.0  # seconds
NAME = "diffkd_jax batches"


def patient(seconds: float) -> None:
    """Waits without limit.

    Args:
      seconds: how long there has been no batch.
    """


def read_ahead(elements: Iterable[Batch], waiting: Waiting = patient) -> Batches:
    """Yields the elements, and reads one of them ahead in a thread.

    Processes that start in this thread, such as Grain's workers, do not receive the
    signals that ask a process to end. If an element never arrives, the thread stays
    behind, see :func:`is_stuck`.

    Args:
      elements: the elements, read only in the thread; their iterator has a ``close``.
      waiting: called every five seconds while no element is ready; it may raise.

    Raises:
      error: the error of the elements, when their next batch is requested.

    >>> list(read_ahead({"number": i} for i in range(2)))
    [{'number': 0}, {'number': 1}]
    """
    ready: Ready = queue.Queue(1)
    done = threading.Event()
    thread = threading.Thread(
        target=_read, args=(elements, ready, done), name=NAME, daemon=True
    )
    with block_end_signals():
        thread.start()
    try:
        while True:
            batch, error = _get(ready, waiting)
            if error is not None:
                raise error
            if batch is None:
                return
            yield batch
    finally:
        done.set()
        thread.join(LOOK_EVERY)


def _get(ready: Ready, waiting: Waiting) -> Any:
    """Returns the next element, and calls ``waiting`` until it is there."""
    start = time.monotonic()
    while True:
        try:
            return ready.get(timeout=LOOK_EVERY)
        except queue.Empty:
            waiting(time.monotonic() - start)


def _read(elements: Iterable[Batch], ready: Ready, done: threading.Event) -> None:
    """Reads all elements into a queue; an error becomes the last entry."""
    last: BaseException | None = None
    try:
        with closing(iter(elements)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if not _put(ready, (batch, None), done):
                    return
    except BaseException as error:  # raised when the batch is requested
        last = error
    _put(ready, (None, last), done)


def _put(ready: Ready, item: Any, done: threading.Event) -> bool:
    """Puts an entry into the queue; returns False if the consumer is done."""
    while not done.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def is_stuck() -> bool:
    """Returns whether a thread still waits for an element."""
    return any(thread.name == NAME for thread in threading.enumerate())
