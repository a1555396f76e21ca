"""Why an image is skipped, as the log says it."""

import struct
import zlib

import numpy as np
import pytest

from diffkd_jax.data import open_data
from diffkd_jax.data.pipeline.unreadable import (
    find_reason,
    first_readable,
    note_skipped,
)
from diffkd_jax.data.sources import registry
from diffkd_jax.io.signatures import name_format
from tests.helpers.data_on_disk import (
    COCO,
    POINTER,
    coco_table,
    image_bytes,
    write,
    write_coco,
    write_folders,
    write_mask,
)
from tests.helpers.data_options import data_options


def png_of_size(width, height):
    """A sound header and no pixels."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b""))):
        crc = zlib.crc32(name + content)
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", crc)
    return data


REASONS = {
    "too large": (png_of_size(40_000, 30_000), "40000x30000 pixels.*at most 89478485"),
    "empty": (b"", "an empty file"),
    "lfs": (POINTER, "a pointer of Git LFS"),
    "annex": (b"/annex/objects/SHA256E-s1--0.jpg\n", "a pointer of git-annex"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "an HEIC image"),
    "jxl": (b"\xff\x0a" + bytes(20), "a JPEG XL image"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    "page": (b"<!DOCTYPE html><html>404", "a web page"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "a drawing"),
    "pdf": (b"%PDF-1.7", "a PDF"),
    "dicom": (bytes(128) + b"DICM", "a DICOM image"),
    "zip": (b"PK\x03\x04", "a zip archive"),
    "film": (b"\0\0\0\x18ftypisom", "a film"),
    "zeros": (bytes(1000), "zeros alone"),
    "other": (b"hello", "5 bytes that begin with b'hello'"),
    "truncated": (image_bytes(size=(200, 200), form="JPEG")[:-400], "truncated"),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_reason_is_said(tmp_path, name, caplog):
    data, reason = REASONS[name]
    write_folders(tmp_path)
    write(tmp_path / "train/cat/1.png", data)
    split = registry.load("folder", str(tmp_path)).splits["train"]
    note_skipped(np.array([1, -1]), {}, split, 0.5)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.endswith("train/cat/1.png")
    assert line.startswith("skipped, found") or name == "truncated"
    caplog.clear()
    with pytest.raises(ValueError, match=f"max_unreadable: .*{reason}"):
        note_skipped(np.array([1]), {}, split, 0.1)


def test_links_that_lead_nowhere_are_named(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "train/cat/9.png").symlink_to("/nowhere/9.png")
    split = registry.load("folder", str(tmp_path)).splits["train"]
    assert split.size == 7
    assert (
        find_reason(split, 3)
        == "found a link to '/nowhere/9.png', expected a file there"
    )


def test_a_class_that_is_a_link_to_nowhere_is_named(tmp_path, caplog):
    write_folders(tmp_path)
    (tmp_path / "train/owl").symlink_to("/nowhere/owl")
    registry.load("folder", str(tmp_path))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}/train: links to nothing, left out: owl"


def test_a_path_that_is_a_link_to_nowhere_is_called_that(tmp_path):
    (tmp_path / "data").symlink_to("/nowhere/data")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*data', a link to '/now"):
        registry.load("folder", str(tmp_path / "data"))


def test_a_file_that_is_gone_or_closed_is_named(tmp_path):
    write_folders(tmp_path)
    split = registry.load("folder", str(tmp_path)).splits["train"]
    (tmp_path / "train/cat/1.png").unlink()
    assert "No such file" in find_reason(split, 1)


def masks(root):
    for i in range(3):
        write(root / f"images/train/{i}.png", image_bytes(i))
        write_mask(root / f"masks/train/{i}.png")
    return root / "masks/train"


@pytest.mark.parametrize("name", ["too large", "empty", "lfs", "heic"])
def test_the_reason_of_a_mask_is_said(tmp_path, name):
    data, _ = REASONS[name]
    write(masks(tmp_path) / "1.png", data)
    split = registry.load("masks", str(tmp_path), (), {"classes": 2}).splits["train"]
    text = find_reason(split, 1)
    assert "masks/train/1.png: found" in text
    assert find_reason(split, 0) != text


def test_a_mask_that_is_a_link_to_nowhere_is_named(tmp_path):
    folder = masks(tmp_path)
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to("../gone.png")
    split = registry.load("masks", str(tmp_path), (), {"classes": 2}).splits["train"]
    assert "found a link to '../gone.png'" in find_reason(split, 1)


def test_an_image_with_boxes_that_is_a_link_to_nowhere_is_named(tmp_path):
    write_coco(tmp_path, coco_table())
    (tmp_path / "images/1.png").unlink()
    (tmp_path / "images/1.png").symlink_to("gone.png")
    split = registry.load("coco", str(tmp_path), (), COCO).splits["train"]
    assert "found a link to 'gone.png'" in find_reason(split, 1)


def test_where_nothing_can_be_read_the_reason_of_the_first_is_said(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}/cat/1.png", POINTER)
    with pytest.raises(ValueError, match=r"no image that decodes; .*Git LFS"):
        open_data(data_options(name="folder", path=str(tmp_path)))


def test_each_sort_of_reason_is_named_ten_times_and_counted(tmp_path, caplog):
    for i in range(150):
        write(tmp_path / f"train/cat/{i:03}.png", bytes(i + 20))
    write(tmp_path / "train/cat/999.png", POINTER)
    split = registry.load("folder", str(tmp_path)).splits["train"]
    known = {}
    for row in range(151):
        note_skipped(np.array([row, -1]), known, split, 1.0)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 12
    assert lines[10].startswith("skipped 100 images, the last one, found a file")
    assert lines[10].endswith("099.png")
    assert "Git LFS" in lines[11]
    assert len(known) == 151


def test_the_first_that_can_be_read_is_found(tmp_path):
    write(tmp_path / "train/cat/0.png", POINTER)
    write(tmp_path / "train/cat/1.png", image_bytes())
    split = registry.load("folder", str(tmp_path)).splits["train"]
    failed = lambda batch: batch | {"failed": np.array([not batch["image"][0].data[:9]
                                    .startswith(b"\x89PNG")])}  # fmt: skip
    assert first_readable(split, failed)["image"][0].name.endswith("1.png")


def test_what_is_not_known_has_no_kind():
    assert name_format(b"hello") == ""
    assert name_format(image_bytes()) == "a PNG image"
