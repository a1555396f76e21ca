"""Reports in one line a disk that cannot be written to, or a workdir that was moved."""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Iterator

from ..cluster.signals import Stopped

# Error texts of the operating system, which every library includes in its messages.
DISK_FAULTS = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]


@contextlib.contextmanager
def report_disk_faults(workdir: pathlib.Path) -> Iterator[None]:
    """Raises one clear error in place of those of libraries for a full or broken disk.

    Args:
      workdir: directory of the run.

    Yields:
      Nothing; the run writes in the context.

    Raises:
      OSError: the disk is full or cannot be written to; the message names the workdir.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not (fault := _find_disk_fault(cause)):
            # An error raised `from None` has a message for users already.
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
def report_moved_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Raises one clear error in place of those of libraries for a moved workdir.

    Args:
      workdir: directory of a run, which holds a ``config.json``. If this process does
        not see the file at the start, errors pass unchanged.

    Yields:
      Nothing; the run writes in the context.

    Raises:
      OSError: the workdir was moved or removed; the message names it.
    """
    record = workdir / "config.json"
    had_record = record.exists()
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not had_record or record.exists():
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"workdir: found {workdir} moved or removed while a run was in it, "
            "expected it to stay; put it back in the place of what may be there now, "
            f"and the same command goes on ({first:.100})"
        ) from error


def _find_disk_fault(error: BaseException) -> str:
    """Returns the system's text for a disk fault if an error holds one, else ""."""
    text = str(error)
    if text.startswith("workdir: "):
        return ""  # our own message, from the teacher's run inside this run
    return next((fault for fault in DISK_FAULTS if fault in text), "")
