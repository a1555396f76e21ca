"""``.pth`` files of odd content cost bounded time and memory, and run nothing."""

import argparse
import collections
import datetime
import pathlib
import pickle
import struct
import tracemalloc
import types
import zipfile

import numpy as np
import pytest

from diffkd_jax.io import pickle_operations, pickles
from diffkd_jax.weights.torch.pickled_tensors import read_content
from diffkd_jax.weights.torch.reader import read_state_dict
from tests.helpers.goldens import GOLDEN

FOUR = np.arange(4, dtype="<f4").tobytes()


def tensor(size=4, shape=(2, 2), strides=(2, 1), key="0"):
    """Protocol 0 code of a tensor in a storage of ``size`` numbers."""
    numbers = ["(" + "".join(f"I{n}\n" for n in ns) + "t" for ns in (shape, strides)]
    return (
        "ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\n"
        f"S'{key}'\nS'cpu'\nI{size}\ntQI0\n{''.join(numbers)}tR"
    ).encode()


def mapping(**code):
    return b"(" + b"".join(b"S'%s'\n" % k.encode() + v for k, v in code.items()) + b"d"


@pytest.fixture
def archive(tmp_path):
    """Writes a zip file of a pickle and, by default, a storage of four numbers."""

    def write(code, compression=zipfile.ZIP_STORED, **entries):
        path = tmp_path / "file.pth"
        with zipfile.ZipFile(path, "w", compression) as opened:
            opened.writestr("archive/data.pkl", code + b".")
            for name, data in ({"data/0": FOUR} | entries).items():
                opened.writestr(f"archive/{name}", data)
        return path

    return write


def refused(path, message):
    with pytest.raises(ValueError, match=message) as found:
        read_state_dict(path)
    assert str(found.value).startswith(f"{path}: ")
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 400


def test_the_code_above_gives_a_tensor(archive):
    found = read_state_dict(archive(mapping(w=tensor())))
    np.testing.assert_array_equal(found["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("count", [2**20 + 1, 5 * 10**8, 10**12, 2**60, 10**40])
def test_views_that_declare_more_than_there_is(count, archive):
    code = mapping(w=tensor(shape=(count,), strides=(0,)))
    refused(archive(code), "found a tensor")


def test_expanded_tensors_of_ordinary_size(archive):
    code = mapping(w=tensor(shape=(3, 4), strides=(0, 1)))
    expected = np.broadcast_to(np.arange(4), (3, 4))
    np.testing.assert_array_equal(read_state_dict(archive(code))["w"], expected)


BOMB = bytes(10**8)


@pytest.mark.parametrize(
    ("size", "entries", "message"),
    [
        (
            4,
            {"data/0": BOMB},
            "found 100,000,000 bytes in 'archive/data/0', expected 16",
        ),
        (len(BOMB) // 4, {"data/0": BOMB}, "found 100,000,000 bytes of weights in a"),
        (4, {"byteorder": BOMB}, "in 'archive/byteorder', expected at most 16"),
    ],
)
def test_small_zips_of_large_entries(size, entries, message, archive):
    code = mapping(w=tensor(size, (4,), (1,)))
    refused(archive(code, zipfile.ZIP_DEFLATED, **entries), message)


def test_an_unpacked_size_that_lies(archive):
    """The directory says 16 bytes, the entry has more; at most 17 are unpacked."""
    path = archive(mapping(w=tensor()), zipfile.ZIP_DEFLATED, **{"data/0": BOMB})
    data = bytearray(path.read_bytes())
    entry = data.rfind(b"PK\x01\x02")  # that of the storage, written last
    data[entry + 24 : entry + 28] = struct.pack("<L", 16)
    path.write_bytes(data)
    tracemalloc.start()
    refused(path, "Bad CRC")
    assert tracemalloc.get_traced_memory()[1] < len(BOMB) / 10
    tracemalloc.stop()


def patched(path, local, central, value):
    """A zip with a two-byte field of each header set to a value."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset : at + offset + 2] = struct.pack("<H", value)
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("local", "central", "value", "message"),
    [
        (6, 8, 1, "pkl' encrypted, expected"),
        (8, 10, 99, "compression 99"),
        (8, 10, 8, "while decompressing"),
        (6, 8, 0x20, "NotImplementedError"),
        (4, 6, 99, "NotImplementedError"),
    ],
)
def test_zips_of_other_kinds(local, central, value, message, archive):
    refused(patched(archive(mapping(w=tensor())), local, central, value), message)


def shared(levels):
    tree = {"x": 1}
    for _ in range(levels):
        tree = {"a": tree, "b": tree}
    return pickle.dumps({"state_dict": tree}, 2)[:-1]


def of_itself():
    tree = {}
    tree["model"] = tree["state_dict"] = tree
    return pickle.dumps(tree, 2)[:-1]


@pytest.mark.parametrize(
    "code",
    [
        *(shared(16), shared(400), of_itself()),
        b"}" + b"(S'model'\n}" * 5000 + b"u" * 5000,
        b"}" + b")" + b"\x85" * 100_000 + b"Ns",  # a deep tuple as a key
        b"})q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"Ns",  # of 2^60 leaves
        *(op + struct.pack("<Q", 2**36) for op in (b"\x8e", b"\x8d", b"\x96")),
        b"\x8b\xff\xff\xff\x7f",  # an int of 2^31 bytes
        b"L" + b"9" * 10**5 + b"L\n",
        b"Nr\xff\xff\xff\x7f",  # entry 2^31 of the memo
        b"ccollections\nOrderedDict\n(I5\ntR",
        *(b"(", b"a", b"s", b"u", b"R", b"\x93", b"h\x07", b"Q", b"\x82\x01", b"\x97"),
    ],
    ids=range(23),
)
def test_pickles_that_would_cost_or_break(code, archive):
    refused(archive(code), "expected")


def test_pickles_without_end(archive, monkeypatch):
    monkeypatch.setattr(pickle_operations, "MAX_OPERATIONS", 1000)
    refused(archive(b"]" * 2000), "more than 1,000 operations")


def legacy(path, size, declared, keys):
    parts = [torch_pickle_magic(), 1001, {"little_endian": True}]
    start = b"".join(pickle.dumps(part, 2) for part in parts)
    code = mapping(w=tensor(size, (2,), (1,))) + b"."
    data = struct.pack("<q", declared) + FOUR
    path.write_bytes(start + code + pickle.dumps(keys, 2) + data)
    return path


def torch_pickle_magic():
    return 0x1950A86A20F9469CFC6C


@pytest.mark.parametrize(
    ("size", "declared", "keys"),
    [
        (10**13, 10**13, ["0"]),
        (4, 10**13, ["0"]),
        (4, -1, ["0"]),
        (4, 4, [[1]]),
        (4, 4, 1),
    ],
)
def test_older_files_that_lie(size, declared, keys, tmp_path):
    refused(legacy(tmp_path / "file.pth", size, declared, keys), "expected|found")


def test_an_older_file(tmp_path):
    found = read_state_dict(legacy(tmp_path / "file.pth", 4, 4, ["0"]))
    np.testing.assert_array_equal(found["w"], [0, 1])


def test_damaged_files_give_one_line_or_weights(tmp_path):
    rng, lines = np.random.default_rng(0), set()
    for name in ("zip.pth", "legacy.pth"):
        whole = (GOLDEN / "torch_files" / name).read_bytes()
        for _ in range(200):
            data = bytearray(whole)
            for at in rng.integers(len(data), size=3):
                data[at] = rng.integers(256)
            (tmp_path / "file.pth").write_bytes(data)
            try:  # some still hold weights
                read_state_dict(tmp_path / "file.pth")
            except ValueError as error:
                lines.add(len(str(error).splitlines()))
    assert lines == {1}


HARMLESS = {
    "counter": collections.Counter({150: 1, 180: 1}),
    "default": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2]),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "bytes": b"\x00\xff",
    "float": np.float64(0.7),
    "int": np.int64(3),
    "dtype": np.dtype("float32"),
    "array": np.arange(3),
    "namespace": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/tmp")),
    "settings": types.SimpleNamespace(a=1),
    "path": pathlib.PosixPath("/tmp/run"),
    "time": datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(seconds=3),
    "complex": 1j,
    "range": range(3),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_harmless_values_beside_the_weights_hold_nothing(protocol, archive):
    code = pickle.dumps(HARMLESS, protocol)[:-1]
    # The stack holds the values; the weights beside them make a state dict.
    whole = b"(S'other'\n" + code + b"S'model'\n" + mapping(w=tensor()) + b"d"
    path = archive(whole)
    np.testing.assert_array_equal(read_state_dict(path)["w"], [[0, 1], [2, 3]])
    with zipfile.ZipFile(path) as opened, opened.open("archive/data.pkl") as stream:
        content, _ = read_content(stream)
    plain = {
        int,
        float,
        str,
        bytes,
        list,
        dict,
        tuple,
        pickles.Inert,
        type(None),
    }
    assert {type(value) for value in content["other"].values()} <= plain
    for name in ("counter", "default", "set", "namespace", "path", "array", "dtype"):
        assert isinstance(content["other"][name], pickles.Inert), name


@pytest.mark.parametrize(
    "name",
    ["torch device", "torch float32", "torch.serialization _get_layout"],
)
def test_harmless_names_of_torch(name, archive):
    module, _, attribute = name.partition(" ")
    code = f"c{module}\n{attribute}\n(S'cpu'\ntR".encode()
    read_state_dict(archive(mapping(model=mapping(w=tensor()), other=code)))


@pytest.mark.parametrize(
    "name",
    [
        *("builtins eval", "builtins getattr", "builtins __import__", "os system"),
        *("torch load", "torch.nn Linear", "numpy load", "functools partial"),
        *("pathlib os.system", "collections namedtuple", "types FunctionType"),
    ],
)
def test_other_names_are_refused(name, archive):
    module, _, attribute = name.partition(" ")
    code = f"c{module}\n{attribute}\n".encode()
    refused(archive(mapping(w=tensor(), x=code)), "could run code")


def test_parameters_with_state(archive):
    code = (
        b"ctorch._utils\n_rebuild_parameter_with_state\n(" + tensor() + b"I01\n(d(dtR"
    )
    assert read_state_dict(archive(mapping(w=code)))["w"].shape == (2, 2)
