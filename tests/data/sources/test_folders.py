"""Folders as people have them: what counts, what is left out and said so."""

import os

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data import open_data
from diffkd_jax.data.array_splits import make_array_split
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import UnreadableImage
from diffkd_jax.data.sources import folders, registry
from diffkd_jax.data.split import limit_split
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform


def write(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200, 40, 40)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of two pictures in either split."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write(tmp_path, f"{split}/{name}/1.png", f"{split}/{name}/2.png")
    return tmp_path


def options(path, **fields):
    mine = {"name": "folder", "path": str(path), "batch_size": 2, "eval_batch_size": 2}
    return data_options(**mine | fields)


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_directories_without_pictures_are_no_classes(folder, caplog):
    write(folder, "__MACOSX/train/cat/1.png", "train/@eaDir/1.png", ".git/a/1.png")
    write(folder, "train/.thumbs/1.png", "train/cat/@eaDir/1.png", "train/cat/.1.png")
    for empty in ("devkit/data", "train/lost+found", "train/owl", "test/owl"):
        (folder / empty).mkdir(parents=True)
    data = registry.load("folder", str(folder))
    assert data.class_names == ("cat", "dog")
    assert sorted(data.splits) == ["test", "train"]
    assert data.splits["train"].size == 4
    assert messages(caplog) == []


def test_only_the_splits_in_use_make_classes(folder):
    write(folder, "devkit/figures/1.png")
    data = registry.load("folder", str(folder), ("train", "test"))
    assert data.class_names == ("cat", "dog")
    data = registry.load("folder", str(folder), ("train", "val"))
    assert sorted(data.splits) == ["devkit", "test", "train"]
    assert open_data(options(folder)).meta["class_names"] == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"data\.eval_split: .*'test', 'train'"):
        open_data(options(folder, eval_split="val"))


def test_what_is_left_out_is_counted_by_class(folder, caplog):
    (folder / "train/owl").mkdir()
    for name in ("owl/1.HEIC", "owl/2.heic", "cat/a.txt", "cat/b.txt", "cat/README"):
        (folder / "train" / name).write_bytes(b"")
    write(folder, "train/dog/more/3.png", "train/dog/more/even/4.png")
    data = registry.load("folder", str(folder))
    assert data.splits["train"].size == 4
    (text,) = messages(caplog)
    assert f"{folder}/train: files left out, by class: " in text
    assert "cat 3 (.txt, no ending)" in text
    assert "dog 2 (in directories below)" in text
    assert "owl 2 (.heic)" in text


def test_what_lies_below_is_counted_to_a_bound(folder, caplog, monkeypatch):
    monkeypatch.setattr(folders, "MAX_COUNTED", 3, raising=False)
    write(folder, *(f"train/dog/more{i}/{k}.png" for i in "ab" for k in range(5)))
    registry.load("folder", str(folder))
    (text,) = messages(caplog)
    assert "dog 3 (in directories below)" in text


def test_links_to_directories_are_not_followed(folder, caplog):
    write(folder, "elsewhere/1/2.png")
    (folder / "train/cat/link").symlink_to(folder / "elsewhere")
    data = registry.load("folder", str(folder), ("train", "test"))
    assert data.splits["train"].size == 4
    assert messages(caplog) == []


def test_of_many_classes_the_first_are_named(folder, caplog):
    for k in range(20):
        (folder / f"train/{k:02}").mkdir()
        (folder / f"train/{k:02}/1.heic").write_bytes(b"")
    registry.load("folder", str(folder))
    (text,) = messages(caplog)
    assert "04 1 (.heic) and 15 more" in text
    # The name of the directory may hold anything.
    assert "05" not in text.replace(str(folder), "")


def test_a_class_in_the_evaluation_split_alone_is_named(folder, caplog):
    write(folder, "test/owl/1.png")
    assert open_data(options(folder)).meta["class_names"] == ["cat", "dog", "owl"]
    assert "classes without a training image: owl" in messages(caplog)


def test_labels_from_1_are_named(tmp_path, caplog):
    arrays = {"image": np.zeros((4, 8, 8), np.uint8), "label": np.array([1, 2, 3, 1])}
    file = tmp_path / "a.npz"
    np.savez(
        file, **{f"{s}/{k}": v for s in ("train", "test") for k, v in arrays.items()}
    )
    open_data(options(file, name="npz"))
    assert "classes without a training image: 0" in messages(caplog)


def test_all_listed_endings_are_read(tmp_path):
    names = ["1.gif", "2.pgm", "3.pnm", "4.jfif", "5.jpe", "6.JPG", "7.bmp", "8.tif"]
    for i, name in enumerate(names):
        path = tmp_path / "train/cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = ["GIF", "PPM", "PPM", "JPEG", "JPEG", "JPEG", "BMP", "TIFF"][i]
        Image.new("L", (8, 8), 200).save(path, kind)
    split = registry.load("folder", str(tmp_path)).splits["train"]
    assert split.size == len(names)
    fields = options(tmp_path)
    batch = eval_transform(fields)(split.fetch(np.arange(split.size)))
    assert not batch["failed"].any()
    assert np.abs(batch["image"].astype(int) - 200).max() <= 1


def test_names_that_are_no_utf_8_can_be_written(folder):
    odd = os.fsencode(folder) + b"/train/caf\xe9"
    os.mkdir(odd)
    (folder / "train/cat/1.png").rename(os.fsdecode(odd + b"/\xff.png"))
    data = registry.load("folder", str(folder))
    assert data.class_names == ("caf\\xe9", "cat", "dog")
    split = data.splits["train"]
    names = [split.name(i) for i in range(split.size)]
    assert any(name.endswith("caf\\xe9/\\xff.png") for name in names)
    assert "\n".join([*names, *data.class_names]).encode()
    assert all(picture.data for picture in split.fetch(np.arange(4))["image"])


def test_a_file_that_is_gone_counts_as_one_that_does_not_decode(folder):
    split = registry.load("folder", str(folder)).splits["train"]
    (folder / "train/cat/2.png").unlink()
    batch = split.fetch(np.arange(4))
    assert [bool(picture.data) for picture in batch["image"]] == [
        True,
        False,
        True,
        True,
    ]
    with pytest.raises(UnreadableImage, match=r"cat/2\.png: .*No such file"):
        decode_image(batch["image"][1])
    batch = eval_transform(options(folder))(batch)
    assert batch["failed"].tolist() == [False, True, False, False]


def test_a_first_picture_that_is_damaged_does_not_matter(folder):
    (folder / "test/cat/1.png").write_bytes(b"")
    assert open_data(options(folder)).eval_shape == (8, 8, 3)
    for name in ("cat/2.png", "dog/1.png", "dog/2.png"):
        (folder / "test" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"cat/1\.png and others: found no image"):
        open_data(options(folder))


def test_a_limit_takes_of_each_class_its_share():
    label = np.repeat([0, 1, 2], [60, 30, 10])
    split = make_array_split(np.zeros((100, 2, 2), np.uint8), label, 3, "here")
    for size in (10, 20, 50):
        counts = np.bincount(limit_split(split, size).label)
        np.testing.assert_array_equal(counts, np.array([60, 30, 10]) * size // 100)
    rows = limit_split(split._replace(fetch=lambda rows: rows), 20).fetch(np.arange(20))
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() != list(range(20))


def test_a_limit_without_known_labels_is_a_draw():
    label = np.repeat([0, 1], 16)
    split = make_array_split(np.zeros((32, 2, 2), np.uint8), label, 2, "here")
    some = limit_split(split._replace(label=None), 16)
    found = some.fetch(np.arange(16))["target"]["label"]
    assert min(np.bincount(found)) >= 5
    again = limit_split(split._replace(label=None), 16).fetch(np.arange(16))["target"][
        "label"
    ]
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("limit", [32, 1000])
def test_a_limit_beyond_the_split_is_all(limit):
    split = make_array_split(
        np.zeros((32, 2, 2), np.uint8), np.arange(32) % 2, 2, "here"
    )
    assert limit_split(split, limit) is split


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limit": -5}, r"data\.limit: found -5, expected an integer at least"),
        ({"holdout": -1}, r"data\.holdout: found -1, expected an integer at"),
        ({"train_split": "holdout"}, r"data\.train_split: found 'holdout'"),
        ({"augment": "crop_flip", "padding": 9}, r"data\.padding: .* expected 0 to 8"),
        ({"augment": "mixup"}, r"data\.augment: found 'mixup'"),
        ({"augment": "resized_crop"}, r"data\.image_size: found 0"),
        ({"num_classes": 3}, r"data\.num_classes: found 3, expected 2"),
    ],
)
def test_fields_that_do_not_fit_the_data_are_named(folder, fields, message):
    with pytest.raises(ValueError, match=message):
        open_data(options(folder, **fields))


def test_channels_that_do_not_fit_are_named(tmp_path):
    image = np.zeros((4, 8, 8, 4), np.uint8)
    arrays = {"image": image, "label": np.arange(4)}
    file = tmp_path / "a.npz"
    np.savez(
        file, **{f"{s}/{k}": v for s in ("train", "test") for k, v in arrays.items()}
    )
    assert open_data(options(file, name="npz")).eval_shape == (8, 8, 4)
    for fields, message in (
        ({"channels": 3}, r"data\.channels: found 3 for images of 4 channels"),
        ({"rand_augment": 9.0}, r"data\.rand_augment: found 9\.0 for images of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            open_data(options(file, name="npz", **fields))
