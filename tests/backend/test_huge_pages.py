"""Commands start again with huge pages at the right time, and stay the same."""

import os
import pathlib
import subprocess
import sys

import pytest

from diffkd_jax.backend.huge_pages import with_huge_pages

ASKED = "always [madvise] never"
GLIBC = ("glibc", "2.36")


def test_other_settings_of_the_allocator_are_kept():
    environment = {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}
    assert with_huge_pages(ASKED, GLIBC, environment) == {
        "A": "b",
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1",
    }


@pytest.mark.parametrize(
    ("enabled", "libc", "tunables"),
    [
        ("[always] madvise never", GLIBC, ""),
        ("always madvise [never]", GLIBC, ""),
        (ASKED, ("glibc", "2.31"), ""),
        (ASKED, ("musl", "1.2.5"), ""),
        (ASKED, ("", ""), ""),
        (ASKED, GLIBC, "glibc.malloc.hugetlb=0"),
        (ASKED, GLIBC, "glibc.malloc.hugetlb=1"),
    ],
)
def test_nothing_changes(enabled, libc, tunables):
    environment = {"GLIBC_TUNABLES": tunables} if tunables else {}
    assert with_huge_pages(enabled, libc, environment) is None


def test_the_command_is_started_again_once(tmp_path):
    setting, script = tmp_path / "enabled", tmp_path / "own script.py"
    setting.write_text(ASKED)
    package = pathlib.Path(__file__).parents[2]
    script.write_text(
        "import os, pathlib, platform, sys\n"
        "platform.libc_ver = lambda: ('glibc', '2.36')\n"
        f"sys.path.insert(0, {str(package)!r})\n"
        "from diffkd_jax.backend import huge_pages\n"
        "print('started', flush=True)\n"
        f"huge_pages.restart(pathlib.Path({str(setting)!r}))\n"
        "print(os.getpid(), os.environ['GLIBC_TUNABLES'], sys.argv[1:])\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = [sys.executable, str(script), "--a=b c", ""]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    )
    output, _ = process.communicate(timeout=60)
    assert output.splitlines() == [
        "started",
        "started",
        f"{process.pid} glibc.malloc.hugetlb=1 ['--a=b c', '']",
    ]


def test_nothing_slow_is_imported_before_the_restart():
    code = "import sys, diffkd_jax.main; print({'jax', 'pydantic'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
