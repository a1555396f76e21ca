"""Images of 16 bits: cameras of fewer bits, and TIFF files whose white is zero."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data import Encoded, open_data
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import UnreadableImage
from tests.helpers.data_on_disk import (
    COCO,
    coco_table,
    image_bytes,
    write,
    write_coco,
    write_mask,
)
from tests.helpers.data_options import data_options


def tiff(values, photometric, bits=16, order="<"):
    """A grey TIFF, not compressed."""
    height, width = values.shape
    if bits == 12:
        rows = ["".join(f"{v:012b}" for v in row) for row in values.tolist()]
        rows = [row + "0" * (-len(row) % 8) for row in rows]
        data = b"".join(int(r, 2).to_bytes(len(r) // 8, "big") for r in rows)
    else:
        kind = "u" if values.dtype.kind in "iu" else "f"
        data = values.astype(f"{order}{kind}{bits // 8}").tobytes()
    short = {256: width, 257: height, 258: bits, 259: 1, 262: photometric}
    short |= {273: 8, 277: 1, 278: height, 279: len(data)}
    short |= {} if values.dtype.kind in "iu" else {339: 3}
    tags = [struct.pack(f"{order}HHIHH", k, 3, 1, v, 0) for k, v in short.items()]
    entries = struct.pack(f"{order}H", len(short)) + b"".join(tags) + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(data)) + data + entries


def png(values):
    """A PNG of 16 bits, grey ``[h, w]`` or colours ``[h, w, 3]``."""
    if values.ndim == 2:
        stream = io.BytesIO()
        Image.fromarray(values.astype(np.uint16)).save(stream, "PNG")
        return stream.getvalue()
    return cv2.imencode(".png", values[..., ::-1].astype(np.uint16))[1].tobytes()


def grey(data, **fields):
    return decode_image(Encoded(data, "here", 1, **fields))[..., 0].tolist()


RAMP = np.array([[0, 1000], [2048, 4095]])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_white_that_is_zero_is_inverted_at_16_bits_as_at_8(order, bits):
    values = np.array([[0, 257], [1285, 65535]]) // (257 if bits == 8 else 1)
    if (bits, order) != (32, ">"):  # which Pillow does not read
        assert grey(tiff(values, 1, bits, order)) == [[0, 1], [5, 255]]
        assert grey(tiff(values, 0, bits, order)) == [[255, 254], [250, 0]]


def test_white_that_is_zero_is_inverted_in_floats():
    values = np.array([[0.0, 0.2], [0.4, 1.0]])
    assert grey(tiff(values, 1, 32)) == [[0, 51], [102, 255]]
    assert grey(tiff(values, 0, 32)) == [[255, 204], [153, 0]]


@pytest.mark.parametrize(
    "data", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08"]
)
def test_a_damaged_tiff_is_named(data):
    with pytest.raises(UnreadableImage, match="here: not an image"):
        decode_image(Encoded(data, "here"))


def test_the_level_that_is_white_can_be_given():
    expected = [[0, 62], [128, 255]]
    assert grey(png(RAMP), max_level=4095) == expected
    assert grey(tiff(RAMP, 1), max_level=4095) == expected
    inverted = (255 - np.array(expected)).tolist()
    assert grey(tiff(RAMP, 0), max_level=4095) == inverted
    colours = png(np.stack([RAMP, RAMP // 2, RAMP * 0], -1))
    pixels = decode_image(Encoded(colours, "here", max_level=4095))
    assert pixels[..., 0].tolist() == expected
    assert pixels[..., 1].tolist() == [[0, 31], [64, 127]]
    assert pixels[..., 2].max() == 0


def test_a_tiff_of_12_bits_says_its_white():
    assert grey(tiff(RAMP, 1, 12)) == [[0, 62], [128, 255]]
    assert grey(tiff(RAMP, 0, 12)) == [[255, 193], [127, 0]]


def test_images_of_8_bits_do_not_change():
    data = image_bytes(200)
    same = decode_image(Encoded(data, "here", max_level=4095))
    np.testing.assert_array_equal(same, decode_image(Encoded(data, "here")))


@pytest.mark.parametrize("values", [RAMP, np.stack([RAMP] * 3, -1)])
def test_a_level_above_white_is_refused(values):
    with pytest.raises(UnreadableImage, match=r"0 to 4095, expected 0 to 1023 .*max"):
        decode_image(Encoded(png(values), "here", max_level=1023))


def folder(root, most, colours=False):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for i in range(4):
            values = rng.integers(0, most + 1, (8, 8))
            values[0, 0] = most
            values = np.stack([values] * 3, -1) if colours else values
            write(root / f"{split}/cat/{i}.png", png(values))
    return data_options(name="folder", path=str(root))


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize(
    ("most", "white"),
    [(255, 255), (200, 255), (1023, 1023), (4095, 4095), (4000, 4095)],
)
def test_levels_of_a_small_part_are_noticed(tmp_path, caplog, most, white, colours):
    options = folder(tmp_path, most, colours)
    open_data(options)
    (line,) = [r.getMessage() for r in caplog.records]
    assert f"end at {most} of 65535" in line
    assert f"data.max_level={white} " in line
    caplog.clear()
    data = open_data(options.replace(max_level=white))
    assert not caplog.records
    for split in (data.train, data.evaluation):
        image = decode_image(split.fetch(np.array([0]))["image"][0])
        assert image.max() >= 255 * most // white


def test_levels_of_masked_images_are_noticed(tmp_path, caplog):
    for i in range(2):
        write(tmp_path / f"images/train/{i}.png", png(np.full((20, 20), 800)))
        write_mask(tmp_path / f"masks/train/{i}.png")
    options = data_options(
        name="masks",
        path=str(tmp_path),
        eval_split="train",
        options={"classes": 2},
        max_level=1023,
    )
    data = open_data(options)
    image = decode_image(data.train.fetch(np.array([0]))["image"][0])
    assert image.max() == round(800 * 255 / 1023)
    open_data(options.replace(max_level=0))
    assert "data.max_level=1023 " in caplog.text


@pytest.mark.parametrize("colours", [False, True])
def test_images_with_boxes_that_are_turned_are_white_at_that_level(tmp_path, colours):
    values = np.zeros((16, 20), int)
    values[0, 0], values[0, 1] = 4095, 2048
    values = np.stack([values, values // 2, values], -1) if colours else values
    exif = Image.Exif()
    exif[274] = 6
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + block
    data = png(values)
    data = (
        data[:33]
        + struct.pack(">I", len(block))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + data[33:]
    )
    table = coco_table(1)
    table["images"][0] |= {"width": 16, "height": 20}
    write_coco(tmp_path, table, ())
    write(tmp_path / "images/0.png", data)
    options = data_options(
        name="coco",
        path=str(tmp_path),
        eval_split="train",
        options=COCO,
        max_level=4095,
    )
    split = open_data(options).train
    image = decode_image(split.fetch(np.array([0]))["image"][0])
    assert image.shape == (20, 16, 3)
    assert image[0, 15].tolist() == ([255, 127, 255] if colours else [255] * 3)
    assert image[1, 15, 0] == 128


@pytest.mark.parametrize("most", [65535, 20_000, 0])
def test_other_levels_are_not(tmp_path, caplog, most):
    open_data(folder(tmp_path, most))
    assert not [r for r in caplog.records if "max_level" in r.getMessage()]
