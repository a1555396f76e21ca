"""Compiled programs that are kept from run to run.

Costs: up to 2 GiB on disk, and reading the folder once in each run.

Gains: with the traces of ``stored_traces``, a warm start takes 0.29 of the wall-clock
time of a cold one, and 0.24 of its CPU time (quickstart, student: 13.7 to 4.0 s and
23.1 to 5.6 s), by ``PYTHONPATH=. python experiments/bench/first_step.py --rounds=3``.

Delete when: JAX keeps programs by default, in one folder for each kind of processor, of
bounded size, and is silent about damaged entries.
"""

import contextlib
import logging
import os
import pathlib
import platform
import warnings
import zlib
from typing import Any

import jax

LOG = logging.getLogger(__name__)
MOST_BYTES = 2**31  # the oldest programs beyond this size are deleted
# JAX's message for a program that it cannot keep, because it calls oneDNN (0.12.0).
ONEDNN_FAULT = "MemoryError: std::bad_alloc"
TRACES = "traces"  # folder of traced programs, in that of the compiled ones


def keep_programs(folder: str) -> None:
    """Lets JAX read and write compiled programs below a folder, small ones too.

    A cache that the environment or the caller has set up stays as it is. Entries that
    are damaged, or that cannot be read, written or removed, only cost time; the first
    one is logged. Each kind of processor has its own folder, because a program may use
    instructions that other processors lack.

    Args:
      folder: the folder, made if needed; ``~`` is the home folder. "" for no cache.

    >>> keep_programs("")
    """
    settings: Any = jax.config
    warnings.showwarning = _first_fault_only(warnings.showwarning)
    if not folder or settings.jax_compilation_cache_dir:
        return
    try:
        path = pathlib.Path(folder).expanduser() / _machine()
        (path / TRACES).mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        LOG.info("compiled programs are not kept: %s", error)
        return
    try:
        _prune(path)
    except OSError as error:
        LOG.info("old compiled programs stay: %s", error)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_raise_persistent_cache_errors", False)


def traces_folder() -> pathlib.Path | None:
    """Returns the folder that :func:`keep_programs` made for traced programs, or None.

    >>> traces_folder() is None
    True
    """
    settings: Any = jax.config
    folder = pathlib.Path(settings.jax_compilation_cache_dir or "", TRACES)
    return folder if settings.jax_compilation_cache_dir and folder.is_dir() else None


def _first_fault_only(show: Any) -> Any:
    """Returns a ``warnings.showwarning`` that logs only the first fault of the cache.

    JAX warns of each program, in two lines. That programs with oneDNN are not kept is
    no fault.

    Args:
      show: function for other warnings.
    """
    faults: list[str] = []

    def show_warning(message: Any, *details: Any, **options: Any) -> None:
        text = " ".join(str(message).split())
        if "persistent compilation cache entry" not in text:
            show(message, *details, **options)
            return
        if text.endswith(ONEDNN_FAULT):
            LOG.debug("a program that calls oneDNN is not kept: %.300s", text)
            return
        if not faults:
            LOG.info("compiled programs are not all kept: %.300s", text)
        faults.append(text)

    return show_warning


def _prune(path: pathlib.Path) -> None:
    """Deletes the oldest programs beyond the limit."""
    # Done once in a run. JAX's own limit reads all entries, under a lock, for each new
    # one.
    entries = []
    for entry in path.rglob("*-cache"):
        with contextlib.suppress(OSError):  # another run may have pruned it
            status = entry.stat()
            entries.append((status.st_mtime, status.st_size, entry))
    spare = sum(size for _, size, _ in entries) - MOST_BYTES
    for _, size, entry in sorted(entries):
        if spare <= 0:
            break
        entry.unlink(missing_ok=True)
        spare -= size


def _machine() -> str:
    """Returns a name for the instructions that the processor has.

    >>> _machine() == _machine()
    True
    """
    features = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = {line for line in file if line.startswith(("flags", "Features"))}
        features = "".join(sorted(lines))
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
