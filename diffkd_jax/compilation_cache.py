"""Compiled programs, kept from run to run."""

import contextlib
import logging
import os
import pathlib
import platform
import zlib
from typing import Any

import jax

MOST_BYTES = 2**31  # beyond, the oldest go


def keep_programs(folder: str) -> None:
    """Lets JAX read and write compiled programs below ``folder``, small ones too.

    A cache that the environment or the caller has set up stays as it is. What an entry
    that is damaged held is compiled anew, with a warning. Machines of other processors
    have folders of their own, since a program may use instructions that others lack.

    Args:
      folder: made if needed, ``~`` allowed; empty for no cache.
    """
    set_up: Any = jax.config
    if not folder or set_up.jax_compilation_cache_dir:
        return
    try:
        path = pathlib.Path(folder).expanduser() / _machine()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        logging.getLogger(__name__).info("no compiled programs are kept: %s", error)
        return
    _prune(path)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
