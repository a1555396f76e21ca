"""A disk that is full or cannot be written to, or a workdir that is gone, in a line."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from ..cluster.signals import Stopped

# In the words of the system, which all libraries pass on.
DISK_FAULTS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]


@contextlib.contextmanager
def disk_faults_named(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what libraries raise where a disk is full or fails into one line.

    Raises:
      OSError: names the workdir.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not (fault := _disk_fault(cause)):
            # An error from None is in words already.
            hidden = cause.__suppress_context__
            cause = cause.__cause__ or (None if hidden else cause.__context__)
        if cause is None:
            raise
        free = shutil.disk_usage(workdir if workdir.exists() else ".").free / 2**20
        raise OSError(
            f"workdir: found {fault} at {workdir} ({free:.0f} MiB free; where that is "
            "plenty, data.num_workers may have found no memory to share), expected a "
            "disk that can be written to; with one, the same command goes on from the "
            "last whole checkpoint"
        ) from None


@contextlib.contextmanager
def moving_named(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what libraries raise where a workdir is moved away into one line.

    Args:
      workdir: a run's, which holds a ``config.json``; of several processes some may
        not see it.

    Raises:
      OSError: names the workdir.
    """
    record = workdir / "config.json"
    seen = record.exists()
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not seen or record.exists():
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"workdir: found {workdir} moved or removed while a run was in it, "
            "expected it to stay; put it back in the place of what may be there now, "
            f"and the same command goes on ({first:.100})"
        ) from error


def _disk_fault(error: BaseException) -> str:
    """What the system says of it, if it does; libraries pass on its words."""
    text = str(error)
    if text.startswith("workdir: "):
        return ""  # ours, of the run inside this one
    return next((fault for fault in DISK_FAULTS if fault in text), "")
