"""Every format is written from the embedded pictures and read back."""

import gzip
import io
import json
import os
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffkd_jax.data import array_splits
from diffkd_jax.data import split as split_module
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.sources import registry


@pytest.fixture(scope="module")
def pictures():
    """Grey and colour pictures with labels, from the embedded set."""
    split = registry.load("fashion_mnist_embedded").splits["train"]
    batch = split.fetch(np.arange(60))
    grey, label = batch["image"], batch["target"]["label"]
    colour = np.pad(np.repeat(grey, 3, -1), ((0, 0), (2, 2), (2, 2), (0, 0)))
    colour[..., 1] //= 2
    return grey, colour, label


def everything(split):
    batch = split.fetch(np.arange(split.size))
    if isinstance(batch["image"], list):
        batch["image"] = [decode_image(picture) for picture in batch["image"]]
    return batch


def same(split, image, label):
    batch = everything(split)
    assert batch["target"]["label"].dtype == np.int32
    np.testing.assert_array_equal(np.stack(list(batch["image"])), image)
    np.testing.assert_array_equal(batch["target"]["label"], label)


def write_idx(path, array, compress):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    data = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if compress else data)


def write_all_idx(path, grey, label, compress=False):
    end = ".gz" if compress else ""
    for prefix in ("train", "t10k"):
        write_idx(path / f"{prefix}-images-idx3-ubyte{end}", grey[..., 0], compress)
        write_idx(path / f"{prefix}-labels-idx1-ubyte{end}", label, compress)


def cifar_batch(colour, label, key):
    data = colour.transpose(0, 3, 1, 2).reshape(len(colour), -1)
    return {b"data": data, key: label.tolist(), b"batch_label": b"one"}


def write_cifar10(path, colour, label):
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batch = cifar_batch(colour, label, b"labels")
        (path / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_folder(path, grey, label):
    for i, (image, k) in enumerate(zip(grey[:12], label[:12], strict=True)):
        split = "train" if i % 3 else "test"
        folder = path / split / f"class_{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{i:03}.png")


def test_embedded_set_is_balanced():
    data = registry.load("fashion_mnist_embedded")
    for name, each in (("train", 800), ("test", 200)):
        batch = everything(data.splits[name])
        assert batch["image"].shape == (10 * each, 28, 28, 1)
        np.testing.assert_array_equal(np.bincount(batch["target"]["label"]), each)
    assert data.class_names[5] == "Sandal"


@pytest.mark.parametrize("compress", [False, True])
def test_idx(tmp_path, pictures, compress):
    grey, _, label = pictures
    write_all_idx(tmp_path, grey, label, compress)
    data = registry.load("fashion_mnist", str(tmp_path))
    same(data.splits["train"], grey, label)
    same(data.splits["test"], grey, label)


def test_cifar10_batches(tmp_path, pictures):
    _, colour, label = pictures
    write_cifar10(tmp_path, colour, label)
    data = registry.load("cifar10", str(tmp_path))
    same(data.splits["train"], np.tile(colour, (5, 1, 1, 1)), np.tile(label, 5))
    same(data.splits["test"], colour, label)


def test_cifar10_sheets(tmp_path, pictures):
    _, colour, label = pictures
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        Image.fromarray(colour.reshape(-1, 1024, 3)).save(tmp_path / f"{name}.png")
    train = np.tile(label, 5)
    (tmp_path / "train_lables.json").write_text(json.dumps(train.tolist()))
    (tmp_path / "test_lables.json").write_text(json.dumps(label.tolist()))
    data = registry.load("cifar10", str(tmp_path))
    same(data.splits["train"], np.tile(colour, (5, 1, 1, 1)), train)
    same(data.splits["test"], colour, label)


def test_cifar100(tmp_path, pictures):
    _, colour, label = pictures
    for name in ("train", "test"):
        batch = cifar_batch(colour, label + 90, b"fine_labels")
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    data = registry.load("cifar100", str(tmp_path))
    same(data.splits["test"], colour, label + 90)
    assert len(data.class_names) == 100


def test_npz(tmp_path, pictures):
    _, colour, label = pictures
    file = tmp_path / "mine.npz"
    arrays = {"train/image": colour, "train/label": label, "val/image": colour[:5]}
    np.savez(file, **arrays, **{"val/label": label[:5]})
    data = registry.load("npz", str(file))
    same(data.splits["val"], colour[:5], label[:5])
    assert len(data.class_names) == label.max() + 1


def test_folder(tmp_path, pictures):
    grey, _, label = pictures
    write_folder(tmp_path, grey, label)
    data = registry.load("folder", str(tmp_path))
    assert data.class_names == ("class_0", "class_1")
    assert data.splits["train"].size + data.splits["test"].size == 12
    batch = everything(data.splits["test"])
    assert all(image.shape == (28, 28, 3) for image in batch["image"])
    by_content = {
        image[..., 0].tobytes(): k
        for image, k in zip(batch["image"], batch["target"]["label"], strict=True)
    }
    for i in range(0, 12, 3):
        assert by_content[grey[i].tobytes()] == label[i] % 2


def test_folder_leaves_out_what_is_no_picture(tmp_path, pictures):
    grey, _, label = pictures
    write_folder(tmp_path, grey, label)
    (tmp_path / "train/class_0/notes.txt").write_text("not an image")
    (tmp_path / "train/class_0/.hidden.png").write_bytes(b"")
    data = registry.load("folder", str(tmp_path))
    assert data.splits["train"].size + data.splits["test"].size == 12
    names = [data.splits["train"].name(i) for i in range(data.splits["train"].size)]
    assert all(name.startswith(str(tmp_path / "train/class_")) for name in names)


def write_shards(path, colour, label, kind="cls"):
    """Six examples in three shards of two splits, as WebDataset has them."""
    for shard, name in enumerate(["set-train-000000", "set-train-000001", "val-00"]):
        with tarfile.open(path / f"{name}.tar", "w") as archive:
            for i in (2 * shard, 2 * shard + 1):
                stream = io.BytesIO()
                Image.fromarray(colour[i]).save(stream, "PNG")
                text = {
                    "cls": f"{label[i]:03}\n",
                    "json": json.dumps({"label": int(label[i])}),
                }
                for suffix, content in (
                    ("png", stream.getvalue()),
                    (kind, text[kind].encode()),
                ):
                    member = tarfile.TarInfo(f"a.b/{i:04}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_tar_shards(tmp_path, pictures, kind):
    _, colour, label = pictures
    write_shards(tmp_path, colour, label, kind)
    data = registry.load("tar", str(tmp_path))
    assert len(data.class_names) == label[:6].max() + 1
    same(data.splits["train"], colour[:4], label[:4])
    same(data.splits["val"], colour[4:6], label[4:6])
    assert "set-train-000001.tar: a.b/0003" in data.splits["train"].name(3)
    image = data.splits["train"].fetch(np.array([3, 0]))["image"]
    np.testing.assert_array_equal(decode_image(image[0]), colour[3])
    np.testing.assert_array_equal(decode_image(image[1]), colour[0])


class Tiny(tfds.core.GeneratorBasedBuilder):
    """A prepared data set, as a user would make it."""

    VERSION = tfds.core.Version("1.0.0")
    images, labels = None, None

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=[str(k) for k in range(10)]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self):
        for i, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield i, {"image": Image.fromarray(image), "label": int(label)}


def test_tfds_array_records(tmp_path, pictures):
    _, colour, label = pictures
    Tiny.images, Tiny.labels = colour[:8], label[:8]
    builder = Tiny(data_dir=tmp_path, file_format="array_record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder.download_and_prepare(file_format="array_record")
    data = registry.load("tfds/tiny", str(tmp_path))
    batch = everything(data.splits["train"])
    found = {
        image.tobytes(): k
        for image, k in zip(batch["image"], batch["target"]["label"], strict=True)
    }
    expected = zip(colour[:8], label[:8], strict=True)
    assert found == {image.tobytes(): k for image, k in expected}


def test_hold_out_parts_without_overlap(pictures):
    grey, _, label = pictures
    grey = grey.copy()
    grey[:, 0, 0, 0] = np.arange(60)  # a mark on each picture
    split = array_splits.make_array_split(grey, label, 10, "here")
    marks = [
        set(everything(part)["image"][:, 0, 0, 0].tolist())
        for part in split_module.hold_out(split, 13)
    ]
    assert len(marks[1]) == 13
    assert marks[0] | marks[1] == set(range(60))
    assert not marks[0] & marks[1]


def truncated_idx(path, grey, colour, label):
    write_all_idx(path, grey, label)
    file = path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    return "fashion_mnist", str(path), "found 46940 bytes, expected 47040"


def truncated_gzip(path, grey, colour, label):
    write_all_idx(path, grey, label, compress=True)
    file = path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])
    return "fashion_mnist", str(path), "train-images-idx3-ubyte.gz: truncated"


def not_idx(path, grey, colour, label):
    write_all_idx(path, grey, label)
    (path / "train-images-idx3-ubyte").write_bytes(b"hello")
    return "fashion_mnist", str(path), "no idx header"


def missing_idx(path, grey, colour, label):
    write_all_idx(path, grey, label)
    (path / "t10k-labels-idx1-ubyte").unlink()
    return "fashion_mnist", str(path), "found no t10k-labels-idx1-ubyte"


def missing_path(path, grey, colour, label):
    return "cifar100", str(path / "nowhere"), "data.path: found nothing"


def missing_batch(path, grey, colour, label):
    write_cifar10(path, colour, label)
    (path / "data_batch_3").unlink()
    return "cifar10", str(path), "data_batch_3: found nothing"


def truncated_batch(path, grey, colour, label):
    write_cifar10(path, colour, label)
    file = path / "data_batch_3"
    os.truncate(file, 500)
    return "cifar10", str(path), "data_batch_3: not a CIFAR python batch"


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a data file ran')",))


def hostile_batch(path, grey, colour, label):
    write_cifar10(path, colour, label)
    (path / "data_batch_1").write_bytes(pickle.dumps(Hostile()))
    return "cifar10", str(path), r"found the name .builtins\.exec"


def label_out_of_range(path, grey, colour, label):
    write_all_idx(path, grey, np.where(label == 3, 12, label))
    return "fashion_mnist", str(path), "found label 12 at example .*expected 0 to 9"


def float_images(path, grey, colour, label):
    file = path / "mine.npz"
    np.savez(file, **{"train/image": colour / 255, "train/label": label})
    return "npz", str(file), "found images float64"


def fewer_labels(path, grey, colour, label):
    file = path / "mine.npz"
    np.savez(file, **{"train/image": colour, "train/label": label[:-1]})
    return "npz", str(file), "60 images and labels of shape"


def other_arrays(path, grey, colour, label):
    np.savez(path / "mine.npz", x=colour, y=label)
    return "npz", str(path / "mine.npz"), r"found arrays \['x', 'y'\]"


def truncated_npz(path, grey, colour, label):
    file = path / "mine.npz"
    np.savez(file, **{"train/image": colour, "train/label": label})
    os.truncate(file, 2000)
    return "npz", str(file), "not a readable .npz"


def empty_folder(path, grey, colour, label):
    return "folder", str(path), "found no images"


def no_shards(path, grey, colour, label):
    return "tar", str(path), "found no .tar files"


def shard_without_split(path, grey, colour, label):
    (path / "00001.tar").write_bytes(b"")
    return "tar", str(path), "00001.tar: found no split in its name"


def truncated_shard(path, grey, colour, label):
    write_shards(path, colour, label)
    file = path / "val-00.tar"
    os.truncate(file, 700)
    return "tar", str(path), "val-00.tar: "


def unlabelled_shard(path, grey, colour, label):
    write_shards(path, colour, label)
    with tarfile.open(path / "val-01.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("5.png"))
    return "tar", str(path), "val-01.tar: .*no label of '5.png', expected 5.cls"


def unknown_set(path, grey, colour, label):
    return "cifar1000", str(path), "data.name: found 'cifar1000'.*tfds/<name>"


def unprepared_tfds(path, grey, colour, label):
    return "tfds/mnist", str(path), "mnist.*prepare"


BAD = [
    truncated_idx, truncated_gzip, not_idx, missing_idx, missing_path, missing_batch,
    truncated_batch, hostile_batch, label_out_of_range, float_images, fewer_labels,
    other_arrays, truncated_npz, empty_folder, no_shards, shard_without_split,
    truncated_shard, unlabelled_shard, unknown_set, unprepared_tfds,
]  # fmt: skip


@pytest.mark.parametrize("make", BAD, ids=lambda f: f.__name__)
def test_bad_files_are_named(tmp_path, pictures, make):
    name, path, message = make(tmp_path, *pictures)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        registry.load(name, path)


def test_a_picture_that_does_not_decode_is_named(tmp_path, pictures):
    grey, _, label = pictures
    write_folder(tmp_path, grey, label)
    broken = next((tmp_path / "train").rglob("*.png"))
    os.truncate(broken, 40)
    split = registry.load("folder", str(tmp_path)).splits["train"]
    with pytest.raises(ValueError, match=f"{broken.name}: not an image"):
        everything(split)
