"""Files that lie about their size or name code: one line each, nothing allocated."""

import gzip
import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from diffkd_jax.data.formats import cifar_pickles, single_files
from diffkd_jax.data.sources import records, registry

IMAGE, LABEL = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)


@pytest.fixture(autouse=True)
def little_memory():
    """The process may not take more than 2 GiB above what it has."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(name, path, message):
    with pytest.raises(ValueError, match=message) as error:
        registry.load(name, str(path))
    assert "\n" not in str(error.value)


def npz(path, image=IMAGE, label=LABEL, **others):
    np.savez(path, **{"train/image": image, "train/label": label} | others)
    return path


ARRAYS = {
    "channels first": ({"image": IMAGE.transpose(0, 3, 1, 2)}, r"\(channels first\?\)"),
    "two channels": ({"image": IMAGE[..., :2]}, "expected .* 1, 3 or 4 channels last"),
    "no picture": ({"image": IMAGE[:0], "label": LABEL[:0]}, "expected at least one"),
    "words": ({"label": np.array(["a", "b", "a", "b"])}, "found labels <U1, expected"),
    "floats": ({"label": LABEL / 2}, "found labels float64, expected integers"),
    "large": ({"label": LABEL * 10**9}, "found label 1000000000 at example 1"),
    "negative": ({"label": LABEL - 1}, "found label -1 at example 0"),
    "a number": ({"label": np.array(3)}, r"labels of shape \(\)"),
    "one hot": ({"label": np.eye(4, dtype=int)}, r"labels of shape \(4, 4\)"),
    "objects": (
        {"label": np.array([None] * 4)},
        "found pickled objects in .*label.npy",
    ),
    "names": ({"class_names": np.array(3)}, r"found class_names int64 \(\)"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_are_named(tmp_path, name):
    fields, message = ARRAYS[name]
    refused("npz", npz(tmp_path / "a.npz", **fields), f"^{tmp_path}/a.npz: .*{message}")


def npy(shape, dtype="|u1", data=b""):
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    return (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data
    )


NPZ = {
    "more than there is": npy((3 * 10**14,)),
    "less than there is": npy((2,), data=bytes(50)),
    "negative": npy((-1, -50), data=bytes(50)),
    "overflowing": npy((2**62, 2**62)),
    "deep": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000,
    "not an array": b"hello",
}


@pytest.mark.parametrize("name", NPZ)
def test_npz_that_lie_are_refused(tmp_path, name):
    file = npz(tmp_path / "a.npz")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("test/image.npy", NPZ[name])
    refused("npz", file, r"a\.npz: not a readable \.npz file: ")


def test_npz_that_grow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(single_files, "SMALL_BYTES", 2**20)
    file = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train/image.npy", "w") as stream,
    ):
        stream.write(npy((4, 2**20), data=bytes(2**22)))
    refused("npz", file, "found 41944.* bytes declared in .* at most 100 times")


def test_npz_of_an_odd_compression_are_refused(tmp_path):
    file = npz(tmp_path / "a.npz")
    data = bytearray(file.read_bytes())
    place = data.index(b"PK\x01\x02") + 10
    data[place : place + 2] = b"\x63\x00"
    file.write_bytes(data)
    refused("npz", file, "not a readable .npz file: ")


def test_arrays_of_either_order_are_read(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 6, 3), np.uint8)
    file = npz(tmp_path / "a.npz", np.asfortranarray(image))
    split = registry.load("npz", str(file)).splits["train"]
    np.testing.assert_array_equal(split.fetch(np.arange(4))["image"], image)


def idx(path, *shape, data=b""):
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(header + data))


@pytest.mark.parametrize(
    ("shape", "data", "message"),
    [
        (
            (2**30, 2**30, 28),
            b"",
            "found .* bytes declared in .*, expected at most 100 times",
        ),
        ((300, 2**10, 2**10), bytes(100), "found 314572800 bytes declared"),
        ((-1, -28, 28), b"", "found no idx header of rank 3"),
        ((1, 2, 2), bytes(2**22), "found more than 4 bytes, expected 4"),
    ],
)
def test_idx_that_lie_are_refused(tmp_path, shape, data, message):
    idx(tmp_path / "train-images-idx3-ubyte.gz", *shape, data=data)
    refused("fashion_mnist", tmp_path, f"ubyte.gz: {message}")


def batch(path, content, protocol=2):
    content = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    path.write_bytes(content)
    return path


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth):
    value = [1]
    for _ in range(depth):
        value = [value, value]
    return value


ARRAY = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]}
NEW_ARRAY = np._core.multiarray._reconstruct
BATCHES = {
    "large array": {**ARRAY, b"data": Calls(NEW_ARRAY, np.ndarray, (10**12,), b"b")},
    "odd codec": {
        **ARRAY,
        b"labels": Calls(__import__("_codecs").encode, "a", "rot13"),
    },
    "dtype of objects": {**ARRAY, b"data": np.array([None])},
    "floats": {**ARRAY, b"data": np.zeros((2, 3072))},
    "shared lists": {**ARRAY, b"labels": nested(40)},
    "deep lists": b"(" * 10**5 + b"l" * 10**5 + b".",
    "large numbers": {**ARRAY, b"labels": [10**30, 1]},
    "words": {**ARRAY, b"labels": ["a", "b"]},
    "no dictionary": [1, 2],
    "declared bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.",
    "place in the memo": b"\x80\x02]r" + struct.pack("<I", 2**31 - 1) + b".",
    "a function": Calls(print, "a function of a file was called"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_cifar_batches_that_lie_are_refused(tmp_path, name, capsys):
    with pytest.raises(ValueError, match=r"^.*/train: not a CIFAR python batch: ") as e:
        cifar_pickles.read_batch(batch(tmp_path / "train", BATCHES[name]), b"labels")
    assert "\n" not in str(e.value)
    assert "MemoryError" not in str(e.value)  # refused before it comes to that
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_cifar_batches_of_any_age_are_read(tmp_path, protocol):
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), np.uint8)
    for label in ([3, 1], np.array([3, 1], ">i4")):
        content = {b"data": np.asfortranarray(data), b"labels": label}
        file = batch(tmp_path / "train", content, protocol)
        image, found = cifar_pickles.read_batch(file, b"labels")
        np.testing.assert_array_equal(image[1, 2, 3], data[1, 67::1024])
        assert found.tolist() == [3, 1]


def test_cifar_batches_of_python_2_are_read(tmp_path):
    content = (
        b"(dp1\nS'data'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray"
        b"\np4\n(I0\ntp5\nS'b'\np6\ntp7\nRp8\n(I1\n(I1\nI3072\ntp9\ncnumpy\ndtype\np10\n"
        b"(S'u1'\np11\nI0\nI1\ntp12\nRp13\n(I3\nS'|'\np14\nNNNI-1\nI-1\nI0\ntp15\nbI00\n"
        b"S'" + b"\\x07" * 3071 + b"\"'\np16\ntp17\nbsS'labels'\np18\n(lp19\nI5\nas."
    )
    image, label = cifar_pickles.read_batch(batch(tmp_path / "a", content), b"labels")
    assert image.shape == (1, 32, 32, 3)
    assert (image.transpose(0, 3, 1, 2).flatten()[:-1] == 7).all()
    assert image[0, -1, -1, -1] == ord('"')
    assert label.tolist() == [5]


def test_names_of_cifar_classes_of_any_age_are_read(tmp_path):
    names = ["caf\u00e9", "\u732b"]
    in_utf8 = [name.encode() for name in names]
    for content in (names, in_utf8):
        for protocol in (0, 2, 4):
            file = batch(tmp_path / "meta", {b"label_names": content}, protocol)
            found = cifar_pickles.read_names(file, b"label_names", 2)
            assert found == tuple(names)
    # Python 2 has strings of bytes.
    strings = b"".join(b"U" + bytes([len(name)]) + name for name in in_utf8)
    batch(file, b"\x80\x02}U\x0blabel_names](" + strings + b"es.")
    assert cifar_pickles.read_names(file, b"label_names", 2) == tuple(names)


def shard(path, label=b"1", suffix="cls", size=None, picture=b"x"):
    with tarfile.open(path / "train-0.tar", "w") as archive:
        for name, content in (("1.png", picture), (f"1.{suffix}", label)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    if size is not None:  # of the label, in its header and the checksum
        data = bytearray((path / "train-0.tar").read_bytes())
        header = data[1024:1536]
        header[124:136] = b"%011o\0" % size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[1024:1536] = header
        (path / "train-0.tar").write_bytes(data)


SHARDS = {
    "deep": ({"label": b"[" * 100_000, "suffix": "json"}, "RecursionError|recursion"),
    "large": ({"label": b"1e12"}, "found label '1e12' in '1.cls'"),
    "larger": ({"label": b"1" * 12}, "found label '111111111111' in '1.cls'"),
    "negative": ({"label": b"-1"}, "found label '-1'"),
    "a share": ({"label": b"0.5"}, "found label '0.5'"),
    "a truth": ({"label": b'{"label": true}', "suffix": "json"}, "found label 'True'"),
    "beyond the end": ({"size": 2**32}, "found '1.cls' beyond the end of the file"),
    "long": ({"label": b" " * 2**21}, "found 2097152 bytes in '1.cls'"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_that_lie_are_refused(tmp_path, name):
    fields, message = SHARDS[name]
    shard(tmp_path, **fields)
    refused("tar", tmp_path, f"train-0.tar: not a shard of images: .*({message})")


def test_shards_without_pictures_are_named(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w"):
        pass
    refused("tar", tmp_path, "train: found no images in its shards")


def test_a_deep_list_of_labels_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json: not a JSON list of labels"):
        single_files.read_json(tmp_path / "a.json")


def test_features_that_name_other_code_are_refused(tmp_path, monkeypatch):
    (tmp_path / "payload.py").write_text("raise SystemExit('code of a file ran')")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "data/mine/1.0.0"
    folder.mkdir(parents=True)
    described = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict"
        ".FeaturesDict",
        "featuresDict": {"features": {"image": {"pythonClassName": "payload.Image"}}},
    }
    (folder / "features.json").write_text(json.dumps(described))
    info = {"name": "mine", "version": "1.0.0", "fileFormat": "array_record"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    refused("tfds/mine", tmp_path / "data", "found the class 'payload.Image'")
    (folder / "features.json").write_text("[" * 100_000)
    refused("tfds/mine", tmp_path / "data", "features.json: not a JSON of features")


def features(**own):
    import tensorflow_datasets as tfds

    given = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    return tfds.features.FeaturesDict(given | own)


def test_features_that_do_not_fit_are_named():
    import tensorflow_datasets as tfds

    f = tfds.features
    check = lambda **own: records._check_features(features(**own), "here")
    assert check() == (3, True, ("0", "1", "2"))
    assert check(image=f.Image(shape=(8, 8, 1)))[:2] == (1, True)
    assert check(image=f.Tensor(shape=(8, 8, 1), dtype=np.uint8))[:2] == (1, False)
    for image in (
        f.Tensor(shape=(8, 8, 3), dtype=np.float32),
        f.Tensor(shape=(3, 8, 8), dtype=np.uint8),
        f.Image(shape=(8, 8, 4)),
        f.Image(shape=(8, 8, 1), dtype=np.uint16),
        f.Tensor(shape=(5, 8, 8, 3), dtype=np.uint8),
        f.Text(),
    ):
        with pytest.raises(ValueError, match=r"^here: found images .*expected uint8"):
            check(image=image)
    for label in (
        f.Scalar(np.int64),
        f.Sequence(f.ClassLabel(num_classes=3)),
        f.ClassLabel(),
        f.Text(),
    ):
        with pytest.raises(ValueError, match=r"^here: found a label of .*ClassLabel"):
            check(label=label)


def test_parts_instead_of_a_picture_are_named():
    import tensorflow_datasets as tfds

    parts = tfds.features.FeaturesDict({"left": tfds.features.Image(shape=(8, 8, 3))})
    with pytest.raises(ValueError, match="here: found images of FeaturesDict, expec"):
        records._check_features(features(image=parts), "here")
