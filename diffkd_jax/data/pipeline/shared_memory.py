"""Batches from worker processes, handed over in shared memory that is reused.

New shared memory costs more than the copy into it: for each batch the system clears its
pages, and maps them one by one on both sides.
"""

import dataclasses
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .read_ahead import Batch

ALIGN = 64  # bytes; jax takes such an array on a CPU without a copy
# Files without a name are freed by the system, however the processes end.
SUPPORTED = hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


@dataclasses.dataclass
class _Buffer:
    """Shared memory of a worker; its first byte is 1 while a batch in it is in use.

    Attributes:
      file: file descriptor in the worker.
      number: number of the buffer; unlike descriptors, numbers are not reused.
      memory: the worker's mapping of it.
    """

    file: int
    number: int
    memory: mmap.mmap


@dataclasses.dataclass(frozen=True)
class _ArrayPosition:
    """The position of an array in a buffer.

    Attributes:
      offset: first byte.
      shape: shape of the array.
      dtype: dtype of the array.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class HandedBatch:
    """A batch on its way to another process, without its arrays.

    Attributes:
      process: id of the worker process.
      file: file descriptor of its buffer.
      number: number of its buffer.
      buffers: numbers of all buffers that the worker has now.
      batch: the batch, with a :class:`_ArrayPosition` for each array.
    """

    process: int
    file: int
    number: int
    buffers: frozenset[int]
    batch: Batch


def make_sender() -> Callable[[Batch], HandedBatch]:
    """Returns a worker's function ``batch -> HandedBatch``, for one thread.

    A buffer is reused when the other process no longer uses any array in it. Until
    then, further buffers are created as needed.
    """
    buffers: list[_Buffer] = []
    created = 0

    def send(batch: Batch) -> HandedBatch:
        nonlocal created
        size, placed = _placed(batch, ALIGN)
        buffer = _free(buffers, size)
        if buffer is None:
            created += 1
            buffer = _new(size, created)
            buffers.append(buffer)
        buffer.memory[0] = 1
        _copy(batch, placed, buffer.memory)
        numbers = frozenset(b.number for b in buffers)
        return HandedBatch(os.getpid(), buffer.file, buffer.number, numbers, placed)

    return send


def make_receiver() -> Callable[[HandedBatch], Batch]:
    """Returns the main process's function ``HandedBatch -> batch``, for one thread.

    The function raises ``ChildProcessError`` if the worker is gone.
    """
    mapped: dict[tuple[int, int], mmap.mmap] = {}

    def receive(handed: HandedBatch) -> Batch:
        key = handed.process, handed.number
        if key not in mapped:
            for process, number in list(mapped):
                if process == handed.process and number not in handed.buffers:
                    del mapped[process, number]  # the worker has closed it
            mapped[key] = _opened(handed)
        memory = mapped[key]
        whole = np.frombuffer(memory, np.uint8)
        # All arrays of the batch are views of this one, and keep it alive. So does jax,
        # which may use them in place on a CPU.
        weakref.finalize(whole, _give_back, memory).atexit = False
        return _read(handed.batch, whole)

    return receive


def _give_back(memory: mmap.mmap) -> None:
    """Marks a buffer as unused."""
    memory[0] = 0


def _free(buffers: list[_Buffer], size: int) -> _Buffer | None:
    """Returns an unused buffer that is large enough; smaller unused ones are closed."""
    for buffer in [b for b in buffers if not b.memory[0]]:
        if len(buffer.memory) >= size:
            return buffer
        buffers.remove(buffer)
        buffer.memory.close()
        os.close(buffer.file)
    return None


def _new(size: int, number: int) -> _Buffer:
    """Creates a buffer."""
    file = os.memfd_create("diffkd_jax batch")
    os.ftruncate(file, size)
    return _Buffer(file, number, mmap.mmap(file, size))


def _opened(handed: HandedBatch) -> mmap.mmap:
    """Maps a buffer of another process."""
    try:
        file = os.open(f"/proc/{handed.process}/fd/{handed.file}", os.O_RDWR)
    except FileNotFoundError:
        raise ChildProcessError(
            f"data.num_workers: found worker process {handed.process} gone, expected "
            "it to prepare batches; was it killed for the memory that it takes?"
        ) from None
    except PermissionError as error:  # some systems hide processes from each other
        raise ChildProcessError(
            f"data.num_workers: found the memory of worker process {handed.process} "
            f"closed to this one ({error}), expected to share it; 0 prepares batches "
            "in threads"
        ) from None
    try:
        return mmap.mmap(file, 0)
    finally:
        os.close(file)


def _placed(batch: Batch, start: int) -> tuple[int, Batch]:
    """Returns the end of a batch in memory, and the batch with its positions."""
    placed: Batch = {}
    for name, value in batch.items():
        if isinstance(value, dict):
            start, placed[name] = _placed(value, start)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            placed[name] = _ArrayPosition(start, value.shape, value.dtype)
            start += -(-value.nbytes // ALIGN) * ALIGN
        else:
            placed[name] = value
    return start, placed


def _copy(batch: Batch, placed: Batch, memory: mmap.mmap) -> None:
    """Copies the arrays of a batch to their positions."""
    for name, position in placed.items():
        if isinstance(position, dict):
            _copy(batch[name], position, memory)
        elif isinstance(position, _ArrayPosition):
            target = np.ndarray(position.shape, position.dtype, memory, position.offset)
            np.copyto(target, batch[name])


def _read(placed: Batch, whole: np.ndarray) -> Batch:
    """Returns a batch whose arrays are views of a buffer."""
    batch: dict[str, Any] = {}
    for name, position in placed.items():
        if isinstance(position, dict):
            batch[name] = _read(position, whole)
        elif isinstance(position, _ArrayPosition):
            batch[name] = np.ndarray(
                position.shape, position.dtype, whole, position.offset
            )
        else:
            batch[name] = position
    return batch
