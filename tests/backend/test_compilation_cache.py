"""Compiled programs are kept, and no entry of a cache is trusted."""

import os
import subprocess
import sys
import warnings

import jax

from diffkd_jax.backend import compilation_cache

CODE = """
import sys
import jax
from diffkd_jax.backend.compilation_cache import keep_programs

for folder in sys.argv[1:]:
    keep_programs(folder)
hits = []
jax.monitoring.register_event_listener(lambda name, **kwargs: hits.append(name))
print(jax.jit(lambda x: (x * 3).sum())(jax.numpy.arange(5.0)))
print(sum(name.endswith("cache_hits") for name in hits))
"""


def environment():
    """The environment without a cache of the tests."""
    names = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    return {k: v for k, v in os.environ.items() if k not in names}


def compute(home, *folders):
    done = subprocess.run(
        [sys.executable, "-c", CODE, *folders],
        env=environment() | {"HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value, hits = done.stdout.split()
    assert value == "30.0"
    return int(hits)


def test_programs_are_kept_and_damaged_ones_compiled_anew(tmp_path):
    assert compute(tmp_path, "~/kept", "a second one is not made") == 0
    files = list((tmp_path / "kept").rglob("*-cache"))
    assert files
    assert compute(tmp_path, "~/kept") > 0
    for file in files:
        file.write_bytes(b"not a program")
    assert compute(tmp_path, "~/kept") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_oldest_programs_go_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 250)
    folder = tmp_path / compilation_cache.TRACES
    folder.mkdir()
    files = [tmp_path / "0-cache", folder / "1-cache", tmp_path / "2-cache"]
    files.append(folder / "3-cache")
    for i, file in enumerate(files):
        file.write_bytes(bytes(100))
        os.utime(file, (i, i))
    compilation_cache._prune(tmp_path)
    assert [file.exists() for file in files] == [False, False, True, True]


def test_traces_are_kept_only_in_a_folder_of_our_own(tmp_path, monkeypatch):
    class Settings:
        jax_compilation_cache_dir = str(tmp_path)

    monkeypatch.setattr(jax, "config", Settings)
    assert compilation_cache.traces_folder() is None
    (tmp_path / compilation_cache.TRACES).mkdir()
    assert compilation_cache.traces_folder() == tmp_path / compilation_cache.TRACES
    Settings.jax_compilation_cache_dir = None
    monkeypatch.chdir(tmp_path)
    assert compilation_cache.traces_folder() is None


def test_no_cache_is_made_where_none_is_wanted_or_possible(tmp_path):
    (tmp_path / "file").write_text("")
    assert compute(tmp_path, "", "~/file/below") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def refuse(path, *arguments, **options):
    raise PermissionError(13, "Permission denied", str(path))


def test_old_programs_of_somebody_else_stay(tmp_path, monkeypatch, caplog):
    names = ("compilation_cache_dir", "raise_persistent_cache_errors")
    names += tuple(
        f"persistent_cache_min_{name}"
        for name in ("compile_time_secs", "entry_size_bytes")
    )
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(compilation_cache, "MOST_BYTES", 0)
    folder = tmp_path / compilation_cache._machine()
    folder.mkdir()
    (folder / "0-cache").write_bytes(bytes(10))
    monkeypatch.setattr(os, "unlink", refuse)
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        with caplog.at_level("INFO", "diffkd_jax"):
            compilation_cache.keep_programs(str(tmp_path))
        assert jax.config.jax_compilation_cache_dir == str(folder)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert (folder / "0-cache").exists()
    assert caplog.text.count("Permission denied") == 1


def test_entries_that_cannot_be_read_or_written_are_one_line(monkeypatch, caplog):
    shown = []
    show = compilation_cache._first_fault_only(lambda *given: shown.append(given))
    with caplog.at_level("INFO", "diffkd_jax"):
        for name in "abc":
            for what in ("reading", "writing"):
                text = f"Error {what} persistent compilation cache entry for '{name}'"
                show(UserWarning(text), UserWarning, "file", 1)
        show(UserWarning("another"), UserWarning, "file", 1)
    assert caplog.text.count("persistent compilation cache entry") == 1
    assert [str(message) for message, *_ in shown] == ["another"]


def test_a_program_with_onednn_is_not_kept_in_silence(tmp_path):
    """The message is that of jaxlib; with another one this test fails."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "import jax; from diffkd_jax.backend import compilation_cache, compiler\n"
        f"compilation_cache.keep_programs({str(tmp_path)!r})\n"
        "print(compiler.has_onednn())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    is_kept = any(tmp_path.rglob("*convolve*-cache"))
    assert done.stdout.split() == [str(not is_kept)]
    assert "not all kept" not in done.stderr
