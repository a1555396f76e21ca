"""Compiled programs, kept from run to run."""

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
MOST_BYTES = 2**31  # beyond, the oldest go


def keep_programs(folder: str) -> None:
    """Lets JAX read and write compiled programs below ``folder``, small ones too.

    A cache that the environment or the caller has set up stays as it is. Entries that
    are damaged, or that cannot be read, written or removed, cost time only: the first
    one is a line in the log. Machines of other processors have folders of their own,
    since a program may use instructions that others lack.

    Args:
      folder: made if needed, ``~`` allowed; empty for no cache.
    """
    set_up: Any = jax.config
    warnings.showwarning = _first_fault_only(warnings.showwarning)
    if not folder or set_up.jax_compilation_cache_dir:
        return
    try:
        path = pathlib.Path(folder).expanduser() / _machine()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        LOG.info("no compiled programs are kept: %s", error)
        return
    try:
        _prune(path)
    except OSError as error:
        LOG.info("old compiled programs stay: %s", error)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_raise_persistent_cache_errors", False)


def _first_fault_only(show: Any) -> Any:
    """Returns a ``warnings.showwarning`` that logs the first fault of the cache alone.

    JAX warns of each program, in two lines.

    Args:
      show: the function for other warnings.
    """
    faults: list[str] = []

    def show_warning(message: Any, *rest: Any, **options: Any) -> None:
        text = " ".join(str(message).split())
        if "persistent compilation cache entry" not in text:
            show(message, *rest, **options)
        elif not faults:
            LOG.info("compiled programs are not all kept: %.300s", text)
        faults.append(text)

    return show_warning


def _prune(path: pathlib.Path) -> None:
    # Once a run: JAX's own bound looks at every entry, under a lock, for each it adds.
    entries = []
    for entry in path.glob("*-cache"):
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
    """A name for what the processor can do.

    >>> _machine() == _machine()
    True
    """
    features = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = {line for line in file if line.startswith(("flags", "Features"))}
        features = "".join(sorted(lines))
    return f"{platform.machine()}-{zlib.crc32(features.encode()):08x}"
