"""Worker processes that prepare batches: how they start, and how they end.

They help with data sets of one's own that hold Python's lock while they read, such as
images stored as numbers in a text: two processes prepared 1.9 times as many of those as
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

# Signals that ask a process to end and give it time, if the system has them.
TO_END = {
    getattr(signal, name)
    for name in (
        *("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"),
        "SIGBREAK",  # Ctrl-Break of Windows
    )
    if hasattr(signal, name)
}


@contextlib.contextmanager
def block_end_signals() -> Iterator[None]:
    """Keeps signals to end from the threads and processes that start in this context.

    A shell or a scheduler sends such signals to the whole group of processes, but the
    main process needs batches until it has ended its work.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
    try:
        # The resource tracker of multiprocessing must not end either. It unblocks
        # SIGINT and SIGTERM, and ignores them.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_END)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(index: int, count: int) -> None:
    """Prepares a worker process: it uses one thread, and ends when its parent ends.

    Args:
      index: index of the worker.
      count: number of workers.
    """
    del index, count
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_for_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the parent is gone, even by SIGKILL."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


def _end_for_parent() -> None:
    """Ends this process on a SIGTERM that the parent itself sends."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(1)


def give_back_memory() -> None:
    """Waits until Grain has freed the shared memory of batches that are gone.

    Grain frees it in a thread, which an exit would cut off; Python would then report
    leaked memory.
    """
    gc.collect()
    module = sys.modules.get("grain._src.python.ipc.shared_memory_array")
    arrays: Any = getattr(module, "SharedMemoryArray", None)
    if pool := getattr(arrays, "_del_thread_pool", None):
        arrays._del_thread_pool = None  # later memory is freed at once
        pool.close()
        pool.join()
