"""Huge pages for the arrays of a program on CPU, where the system gives them if asked.

XLA takes the memory of each call from the C library and gives it back after it. In
pages of 4 KiB a step then spends a quarter of its time on page faults and on looking up
addresses (``experiments/bench``).
"""

import logging
import os
import pathlib
import platform
import sys
from collections.abc import Mapping

TUNABLE = "glibc.malloc.hugetlb"
SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart(setting: pathlib.Path = SETTING) -> None:
    """Starts this command again, once, with an allocator that asks for huge pages.

    The C library reads its settings when a process starts, so there is no other way
    from inside. Nothing happens where it would gain nothing, or where the environment
    has a setting of its own: ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0`` keeps it away.

    Args:
      setting: file that says when the system gives huge pages.
    """
    try:
        enabled = setting.read_text()
    except OSError:  # another system
        return
    changed = with_huge_pages(enabled, platform.libc_ver(), os.environ)
    if changed is None or not sys.executable:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], changed)
    except OSError as error:
        logging.getLogger(__name__).info("not started again: %s", error)


def with_huge_pages(
    enabled: str, libc: tuple[str, str], environment: Mapping[str, str]
) -> dict[str, str] | None:
    """An environment in which the allocator asks for huge pages; None to change none.

    Args:
      enabled: the system's setting, such as ``"always [madvise] never"``.
      libc: its name and version; glibc can ask from 2.35 on.
      environment: of this process.

    >>> with_huge_pages("always [madvise] never", ("glibc", "2.36"), {})
    {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'}
    >>> with_huge_pages("[always] madvise never", ("glibc", "2.36"), {}) is None
    True
    """
    name, version = libc
    numbers = [int(part) for part in version.split(".") if part.isdecimal()]
    given = environment.get("GLIBC_TUNABLES", "")
    if "[madvise]" not in enabled or name != "glibc" or numbers < [2, 35]:
        return None
    if TUNABLE in given:
        return None
    tunables = f"{given}:{TUNABLE}=1" if given else f"{TUNABLE}=1"
    return {**environment, "GLIBC_TUNABLES": tunables}
