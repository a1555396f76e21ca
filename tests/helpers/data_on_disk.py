"""Small data sets on disk, as other programs write them, for tests of their readers."""

import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"  # one word, in NFC and in NFD
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:" + b"0123456789abcdef" * 4 + b"\nsize 44789\n"
)


def image_bytes(number=0, form="PNG", size=(20, 20)):
    """An image file whose pixels depend on a number."""
    stream = io.BytesIO()
    color = (number % 256, number // 256 % 256, 90)
    Image.new("RGB", size, color).save(stream, form)
    return stream.getvalue()


def write(path, data):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def write_mask(path, size=(20, 20)):
    """A mask of classes 0 and 1."""
    rows = np.arange(size[1])[:, None] * np.ones(size[0])
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((rows * 2 // size[1]).astype(np.uint8)).save(path)


def write_folders(root, splits=("train", "test"), classes=("cat", "dog"), count=3):
    """``<split>/<class>/<number>.png``, all images different."""
    number = 0
    for split in splits:
        for name in classes:
            for i in range(count):
                number += 1
                write(root / split / name / f"{i}.png", image_bytes(number))


def coco_table(images=3, file_name="{i}.png"):
    """A table of COCO with two objects in each image."""
    return {
        "images": [
            {"id": i, "file_name": file_name.format(i=i), "width": 20, "height": 20}
            for i in range(images)
        ],
        "annotations": [
            {
                "id": 2 * i + j,
                "image_id": i,
                "category_id": j + 1,
                "bbox": [1 + 9 * j, 2, 8, 9],
                "area": 72,
            }
            for i in range(images)
            for j in range(2)
        ],
        "categories": [{"id": 1, "name": "bolt"}, {"id": 2, "name": "nut"}],
    }


def write_coco(root, table, images=(0, 1, 2), split="train", encoding="utf-8"):
    """The json of a split and files ``images/<number>.png``."""
    write(root / f"{split}.json", json.dumps(table).encode(encoding))
    for i in images:
        write(root / f"images/{i}.png", image_bytes(i))


COCO = {"annotations": "{split}.json", "images": "images"}


def xml(*objects, filename=""):
    """A document of VOC; an object is a name, or a name with its box."""
    texts = []
    for one in objects:
        name, box = (one, (2, 3, 9, 12)) if isinstance(one, str) else one
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        texts.append(f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>")
    file = f"<filename>{filename}</filename>" if filename else ""
    size = "<size><width>20</width><height>20</height></size>"
    return f"<annotation>{file}{size}{''.join(texts)}</annotation>"


def write_shard(path, members):
    """A tar file of ``(name, bytes)``."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
