"""Exchanges small values between the processes of a run, and ends processes."""

import multiprocessing
import os
import sys
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed  # no public way to the store that all processes share
from jax.experimental import multihost_utils

from ...data.pipeline.read_ahead import is_stuck
from ...io import console


def exit_now(message: str) -> NoReturn:
    """Prints an error and exits this process at once, with exit code 1.

    A normal exit would wait for all other processes.

    Args:
      message: the error.
    """
    console.say(f"error: {message}", error=True)
    os._exit(1)


def exit_process(code: int) -> NoReturn:
    """Exits this process, without a cleanup if the cleanup would never end.

    The cleanup of a normal exit waits for other processes, and for threads that read
    data and may hang.

    Args:
      code: the exit code.
    """
    if is_stuck():
        for worker in multiprocessing.active_children():
            worker.kill()
    elif distributed.global_state.num_processes == 1:
        sys.exit(code)
    console.flush()
    os._exit(code)


def count_processes() -> int:
    """Returns the number of processes of this run; uses no device.

    >>> count_processes()
    1
    """
    return distributed.global_state.num_processes or 1


def is_primary() -> bool:
    """Returns whether this process writes files and progress for all.

    >>> is_primary()
    True
    """
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Waits until every process has reached the point of this name.

    Args:
      name: name of the point, the same on every process.

    >>> wait_for_all("an example")
    """
    multihost_utils.sync_global_devices(name)


def is_true_everywhere(value: bool) -> bool:
    """Returns whether a value is true on every process; all of them have to call it.

    Args:
      value: the value of this process.

    >>> is_true_everywhere(True)
    True
    """
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.array(value)).all())


Number = TypeVar("Number", int, float)


def broadcast_first(value: Number) -> Number:
    """Returns the value of the first process; all of them have to call it.

    Args:
      value: the value of this process: a bool, an integer of 32 bits, or a float, which
        is rounded to float32.

    >>> broadcast_first(3)
    3
    """
    if jax.process_count() == 1:
        return value
    return type(value)(multihost_utils.broadcast_one_to_all(np.array(value)))
