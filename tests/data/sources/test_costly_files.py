"""Files that would take time or memory out of proportion to their size."""

import subprocess
import sys
import tracemalloc

import pytest

from diffkd_jax.data.formats import cifar_pickles

READ = """
import pathlib, sys
from diffkd_jax.data.formats import cifar_pickles
for file in sys.argv[1:]:
    try:
        cifar_pickles.read_batch(pathlib.Path(file), b"labels")
    except ValueError as error:
        print(error)
"""
NUMPY_DTYPE, CODEC = b"cnumpy\ndtype\n", b"c_codecs\nencode\n"
PICKLES = {
    "by duplication": b"\x80\x02})" + b"2\x86" * 40 + b"K\x01s.",
    "by memo": b"\x80\x02})" + b"q\x00h\x00\x86" * 40 + b"K\x01s.",
    "behind a removed object": b"\x80\x02})" + b"N0q\x00h\x00\x86" * 40 + b"K\x01s.",
    "behind no items": b"\x80\x02})" + b"(uq\x00h\x00\x86" * 40 + b"K\x01s.",
    "in a set": b"\x80\x04\x8f()" + b"q\x00h\x00\x86" * 40 + b"\x90.",
    "as a codec": b"\x80\x02"
    + CODEC
    + b"X\x01\x00\x00\x00a)"
    + b"q\x00h\x00\x86" * 40
    + b"\x86R.",
}


def test_tuples_that_double_are_refused_at_once(tmp_path):
    files = [tmp_path / name for name in PICKLES]
    for file in files:
        file.write_bytes(PICKLES[file.name])
    done = subprocess.run(
        [sys.executable, "-c", READ, *map(str, files)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    for file, line in zip(files, done.stdout.splitlines(), strict=True):
        assert f"{file}: not a CIFAR python batch: found" in line


@pytest.mark.parametrize("named", [NUMPY_DTYPE, CODEC, b"cnumpy\nndarray\n"])
def test_nothing_that_a_pickle_names_can_be_changed(tmp_path, named):
    file = tmp_path / "a"
    state = b"N}X\x0c\x00\x00\x00__defaults__)s\x86b."
    file.write_bytes(b"\x80\x02" + named + state)
    functions = [v for v in vars(cifar_pickles).values() if hasattr(v, "__code__")]
    before = [f.__defaults__ for f in functions]
    with pytest.raises(ValueError, match="not a CIFAR python batch: "):
        cifar_pickles.read_batch(file, b"labels")
    assert [f.__defaults__ for f in functions] == before


def test_text_encoded_many_times_takes_no_memory(tmp_path):
    text = b"X" + (2**20).to_bytes(4, "little") + b"a" * 2**20 + b"q\x01"
    calls = b"h\x00h\x01h\x02\x86R" * 500
    names = CODEC + b"q\x00" + text + b"X\x06\x00\x00\x00latin1q\x02"
    (tmp_path / "a").write_bytes(b"\x80\x02" + names + calls + b".")
    tracemalloc.start()
    with pytest.raises(ValueError, match="not a CIFAR python batch"):
        cifar_pickles.read_batch(tmp_path / "a", b"labels")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50 * 2**20
