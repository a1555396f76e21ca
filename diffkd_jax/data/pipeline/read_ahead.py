"""Reads batches in a thread, so that whoever needs one can look around meanwhile."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any

from .workers import left_to_the_caller

Batch = dict[str, Any]
Batches = Generator[Batch]  # to be closed where it is not used up
# Told how many seconds there has been no batch; may raise to wait no longer.
Waiting = Callable[[float], None]
LOOK_EVERY = 5.0  # seconds
NAME = "diffkd_jax batches"


def patient(seconds: float) -> None:
    """Waits for as long as it takes."""


def read_ahead(elements: Iterable[Batch], waiting: Waiting = patient) -> Batches:
    """The elements, one of them read ahead.

    What begins in the thread, workers of Grain among it, gets no signals to end. An
    element that never comes leaves the thread behind: see :func:`is_stuck`.

    Args:
      elements: to read, in that thread alone; their iterator has a ``close``.
      waiting: called every five seconds while there is none.

    >>> list(read_ahead({"number": i} for i in range(2)))
    [{'number': 0}, {'number': 1}]
    """
    ready: queue.Queue[tuple[Batch | None, BaseException | None]] = queue.Queue(1)
    done = threading.Event()
    thread = threading.Thread(
        target=_read, args=(elements, ready, done), name=NAME, daemon=True
    )
    with left_to_the_caller():
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


def _get(ready: queue.Queue, waiting: Waiting) -> Any:
    start = time.monotonic()
    while True:
        try:
            return ready.get(timeout=LOOK_EVERY)
        except queue.Empty:
            waiting(time.monotonic() - start)


def _read(elements: Iterable[Batch], ready: queue.Queue, done: threading.Event) -> None:
    last: BaseException | None = None
    try:
        with closing(iter(elements)) as batches:  # type: ignore[type-var]
            for batch in batches:
                if not _put(ready, (batch, None), done):
                    return
    except BaseException as error:  # raised where the batch is asked for
        last = error
    _put(ready, (None, last), done)


def _put(ready: queue.Queue, item: Any, done: threading.Event) -> bool:
    """Whether it was taken, or will be."""
    while not done.is_set():
        try:
            ready.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def is_stuck() -> bool:
    """Whether a thread is left that still waits for an element."""
    return any(thread.name == NAME for thread in threading.enumerate())
