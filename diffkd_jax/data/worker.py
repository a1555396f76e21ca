"""What a worker process that prepares batches does before anything else."""

import multiprocessing
import os
import threading

import cv2


def start_worker(index: int, count: int) -> None:
    """Ends with the process that started it, and uses one thread: there are more."""
    del index, count
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """However the parent ends, by SIGKILL too, which tells nobody."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)
