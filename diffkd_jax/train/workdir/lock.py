"""Locks the directory of a run, so that no other run uses it."""

import contextlib
import errno
import logging
import pathlib
from collections.abc import Iterator

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..cluster.processes import is_primary, is_true_everywhere

LOG = logging.getLogger(__name__)
LOCK, SOFT_LOCK = "lock", "lock.soft"
# Errors of file systems without locks, such as some NFS, FUSE and cluster ones.
NO_LOCKS = {
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")
    if hasattr(errno, name)
}


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a workdir; creates the workdir if needed.

    The lock is released even if the process dies. If the file system has no locks, a
    file that names the process serves as the lock.

    Args:
      workdir: directory of the run.

    Yields:
      Nothing; the lock is held in the context.

    Raises:
      OSError: another run uses the workdir, or it cannot be created or written to.
    """
    lock: BaseFileLock | None = None
    problem, advice = "", "choose another --workdir"
    if is_primary():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lock = _acquire(workdir)
        except Timeout as error:
            problem = "is in use by another run, expected one at a time"
            if pathlib.Path(error.lock_file).name == SOFT_LOCK:
                advice = (
                    f"if none runs, on any host, remove its {SOFT_LOCK}; else {advice}"
                )
        except OSError as error:
            problem = f"found {error}, expected a directory to write to and to lock"
    # All processes stop; otherwise the others would wait for the first one.
    if not is_true_everywhere(not problem):
        reason = problem or "is in use or cannot be written to"
        raise OSError(f"workdir: {workdir}: {reason}; {advice}")
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(workdir: pathlib.Path) -> BaseFileLock:
    """Acquires the lock of a workdir and returns it.

    Raises:
      Timeout: another process holds it.
      OSError: its file cannot be created.
    """
    lock: BaseFileLock = FileLock(workdir / LOCK)
    try:
        lock.acquire(timeout=0)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        LOG.info(
            "%s: its file system has no locks (%s): the file %s serves as one",
            *(workdir, error.strerror, SOFT_LOCK),
        )
        lock = SoftFileLock(workdir / SOFT_LOCK)
        lock.acquire(timeout=0)
    return lock
