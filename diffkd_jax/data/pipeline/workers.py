"""Worker processes that prepare batches: how they start, and how they end.

They are there for data sets of one's own whose reading holds Python's lock, such as
images that lie in text as numbers: two processes prepared 1.9 times as many of those as
two threads did. For the formats of this package they gain 5 to 8 %
(``experiments/bench/README.md``).
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import cv2

# Signals that ask a process to end and leave it time, where the system has them.
TO_END = {
    getattr(signal, name)
    for name in (
        *("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"),
        "SIGBREAK",  # Ctrl-Break of Windows
    )
    if hasattr(signal, name)
}


@contextlib.contextmanager
def left_to_the_caller() -> Iterator[None]:
    """Threads and processes that begin inside do not get the signals to end.

    A shell or a scheduler sends them to the whole group, but the process in front needs
    batches until it has come to an end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
    try:
        # It must not end either. It lets SIGINT and SIGTERM through, and ignores them.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(index: int, count: int) -> None:
    """Ends with the process that started it, and uses one thread: there are more."""
    del index, count
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_with_parent() -> None:
    """However the parent ends, by SIGKILL too, which tells nobody."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _end_for_parent() -> None:
    """On a SIGTERM of the parent's own."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(1)


def give_back_memory() -> None:
    """Waits for Grain to free the shared memory of the batches that are gone.

    It does so in a thread that an exit would cut off, and Python would then say that
    memory has leaked.
    """
    gc.collect()
    module = sys.modules.get("grain._src.python.ipc.shared_memory_array")
    arrays: Any = getattr(module, "SharedMemoryArray", None)
    if pool := getattr(arrays, "_del_thread_pool", None):
        arrays._del_thread_pool = None  # what is freed later is so at once
        pool.close()
        pool.join()
