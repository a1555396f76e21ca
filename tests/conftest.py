"""Shared by all tests: devices, compilation, run-time shape checks, golden files."""

import ctypes
import functools
import gc
import os
import pathlib
import signal
import sys

# Eight simulated devices, so that sharded runs are tested everywhere.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# Tests compile the same programs again and again, in workers and in the commands that
# they start. What is compiled stays there; ``pytest --cache-clear`` empties it.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parents[1] / ".pytest_cache/d/jax"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import jax
import jaxtyping
import pytest
from jax._src import compiler  # no public way to give options to every program

# A runner in the background, or under nohup, may have these ignored, and so would every
# run that a test starts and tells to stop.
for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(number, usual)

# Traces are many small objects that live long: collecting them finds next to nothing.
gc.set_threshold(50_000, 20, 50)

# Modules whose annotated shapes are checked in all tests. The others are also called
# with NumPy arrays.
jaxtyping.install_import_hook(
    [
        f"diffkd_jax.core.{name}"
        for name in ("denoising", "diffkd", "diffkd_output", "diffusion", "distances")
    ],
    "beartype.beartype",
)

# Small nets run for a moment, so compiling is most of their tests' time. The goldens,
# the quickstart, commands and everything marked "optimised" keep what users run.
COMPILED_CHEAPLY = (
    *("tests/train/", "tests/core/", "tests/config/", "tests/methods/", "tests/tasks/"),
    *("tests/io/", "tests/test_", "README.md", "docs/", "diffkd_jax/"),
    *("tests/backend/test_small", "tests/backend/test_comp", "tests/backend/test_huge"),
    *("tests/models/test_fold.py", "tests/models/dense/test_segmenter"),
    *("tests/models/dense/test_detector", "tests/models/dense/test_faster_rcnn"),
    *("tests/weights/test_segmenter", "tests/weights/test_detector"),
    "tests/weights/test_real_weights.py",
)
AS_USERS_HAVE_IT = ("tests/core/test_golden.py", "tests/test_command_line.py")
OPTION = "jax_disable_most_optimizations"
# Compiled programs are dropped when a worker holds more, for two workers take 6 GiB.
MAX_BYTES = int(2.3 * 2**30)
# An option of jaxlib 0.10, which later versions lack.
QUICK = {"xla_cpu_use_fusion_emitters": False}
get_compile_options = compiler.get_compile_options


@functools.cache
def quick_options():
    """Options that halve the time to compile without optimisations, if known."""
    try:
        jax.jit(lambda x: x, compiler_options=QUICK).lower(0.0).compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return []
    return list(QUICK.items())


def quick_compile_options(*args, **kwargs):
    options = get_compile_options(*args, **kwargs)
    options.env_option_overrides = [*options.env_option_overrides, *quick_options()]
    return options


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Compiles a test's programs, those of its fixtures and commands too, cheaply."""
    name, as_it_is = item.nodeid, item.get_closest_marker("optimised")
    cheap = name.startswith(COMPILED_CHEAPLY) and not (
        as_it_is or name.startswith(AS_USERS_HAVE_IT)
    )
    jax.config.update(OPTION, cheap)
    os.environ[OPTION.upper()] = str(int(cheap))
    quick_options()  # which compiles: not with itself
    compiler.get_compile_options = (
        quick_compile_options if cheap else get_compile_options
    )
    result = yield
    drop_programs(MAX_BYTES)
    return result


def drop_programs(max_bytes):
    """Drops all compiled programs if this process holds more memory than ``max_bytes``.

    JAX keeps each program for ever. Those that are needed again come from the cache on
    disk.
    """
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not on Linux
        return
    if pages * os.sysconf("SC_PAGESIZE") > max_bytes:
        jax.clear_caches()
        gc.collect()
        # glibc keeps what was freed until it is told to give it back.
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """Name of a module that leaves a file behind when it is imported, and that file."""
    from diffkd_jax.models.registry import USED_PATHS  # not before the hook above

    proof = tmp_path / "ran"
    text = (
        f"import os\nos.mkdir({str(proof)!r})\n"
        "from tests.helpers.own_model import make\n"
    )
    (tmp_path / "payload_of_a_file.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "payload_of_a_file:make", proof
    sys.modules.pop("payload_of_a_file", None)
    USED_PATHS.discard("payload_of_a_file:make")
