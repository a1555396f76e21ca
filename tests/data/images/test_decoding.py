"""Modes, formats and hostile files: read as meant, or refused as that picture's."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from diffkd_jax.data.images import decoding, headers
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import Encoded, UnreadableImage
from diffkd_jax.data.images.headers import read_size
from diffkd_jax.data.transforms.draws import Draws
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform, train_transform

RAMP = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)


def saved(picture, kind, **options):
    stream = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(stream, kind, **options)
    return Encoded(stream.getvalue(), f"picture.{kind.lower()}")


def grey_tiff(code, array):
    """A TIFF of one strip in the machine's words, ``code`` for unsigned, int, float."""
    height, width = array.shape
    tags = [(256, width), (257, height), (258, 8 * array.itemsize), (259, 1)]
    tags += [(262, 1), (273, 8 + 2 + 12 * 9 + 4), (278, height)]
    tags += [(279, array.nbytes), (339, code)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    header = b"II*\0" + struct.pack("<IH", 8, len(tags))
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return Encoded(header + body + bytes(4) + data, "made.tif")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_levels_are_scaled(kind):
    seen = decode_image(saved(RAMP, kind))
    np.testing.assert_array_equal(seen[..., 1], np.arange(256).reshape(16, 16))
    assert seen.shape == (16, 16, 3)


def test_16_bit_levels_of_the_other_byte_order_are_scaled():
    picture = Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes())
    seen = decode_image(saved(picture, "TIFF"))
    np.testing.assert_array_equal(seen[..., 0].ravel(), np.arange(256))


def test_32_bit_levels_are_those_of_16_bits_or_refused():
    seen = decode_image(grey_tiff(2, RAMP.astype(np.int32)))
    np.testing.assert_array_equal(seen[..., 0].ravel(), np.arange(256))
    with pytest.raises(UnreadableImage, match="found levels 0 to 65536, expected"):
        decode_image(grey_tiff(2, np.array([[0, 65536]], np.int32)))
    with pytest.raises(UnreadableImage, match="found levels -1 to 5"):
        decode_image(grey_tiff(2, np.array([[-1, 5]], np.int32)))


@pytest.mark.parametrize("scale", [1, 255])
def test_floats_are_scaled_by_their_range(scale):
    levels = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    seen = decode_image(grey_tiff(3, levels * scale))
    np.testing.assert_array_equal(seen[..., 2].ravel(), np.arange(256))


@pytest.mark.parametrize("bad", [-0.1, 256.0, np.nan, np.inf])
def test_floats_of_no_known_range_are_refused(bad):
    with pytest.raises(UnreadableImage, match=r"^made.tif: .* found floats"):
        decode_image(grey_tiff(3, np.array([[0.5, bad]], np.float32)))


RED_BLUE = np.repeat([[[255, 0, 0], [0, 0, 255]]], 2, 0).astype(np.uint8)


def palette(**options):
    return saved(Image.fromarray(RED_BLUE).quantize(4), "PNG", **options)


PLAIN = {
    "P": palette(),
    "P, one transparent": palette(transparency=0),
    "P, alpha": palette(transparency=bytes([0, 128, 255, 255])),
    "RGBA": saved(Image.fromarray(RED_BLUE).convert("RGBA"), "PNG"),
    "GIF": saved(RED_BLUE, "GIF"),
    "PPM": saved(RED_BLUE, "PPM"),
    "BMP": saved(RED_BLUE, "BMP"),
    "TIFF": saved(RED_BLUE, "TIFF"),
    "WEBP": saved(RED_BLUE, "WEBP", lossless=True),
    "WEBP, alpha": saved(
        Image.fromarray(RED_BLUE).convert("RGBA"), "WEBP", lossless=True
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_colours_are_kept(name):
    np.testing.assert_array_equal(decode_image(PLAIN[name]), RED_BLUE)
    assert read_size(PLAIN[name]) == (2, 2)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_is_rgb(mode):
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    picture = Image.fromarray(grey).convert(mode)
    seen = decode_image(saved(picture, "PNG"))
    np.testing.assert_array_equal(seen, np.repeat(grey[..., None], 3, -1))
    one = decode_image(saved(picture, "PNG")._replace(channels=1))
    np.testing.assert_array_equal(one, grey[..., None])


def test_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        file = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode_image(file)[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.skipif(".avif" not in headers.IMAGE_ENDINGS, reason="Pillow without AVIF")
def test_avif():
    file = saved(Image.new("RGB", (8, 8), (200, 40, 40)), "AVIF")
    assert np.abs(decode_image(file).astype(int) - (200, 40, 40)).max() < 6


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(np.zeros((4, 8, 3), np.uint8), "JPEG", exif=exif)
    assert decode_image(file).shape == (4, 8, 3)


@pytest.mark.parametrize("compress", [True, False])
def test_metadata_does_not_matter(compress):
    info = PngImagePlugin.PngInfo()
    info.add_text("XML:com.adobe.xmp", "x" * 3_000_000, zip=compress)
    file = saved(RED_BLUE, "PNG", pnginfo=info, icc_profile=b"y" * 2_000_000)
    np.testing.assert_array_equal(decode_image(file), RED_BLUE)


def png(width, height, body=b""):
    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + end


def jpeg(width, height):
    """A small JPEG whose header declares another size."""
    data = bytearray(saved(RED_BLUE, "JPEG").data)
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


LARGE = {
    "png": png(12000, 12000),
    "png, larger": png(60000, 60000),
    "jpeg": jpeg(12000, 12000),
    "jpeg, larger": jpeg(60000, 60000),
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, 20000, 20000, 1, 24,
                               0, 0, 0, 0, 0, 0),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
    + b"\x2c" + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x01\x00;",
    "ppm": b"P6 20000 20000 255\n",
    "webp, VP8X": b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2,
    "webp, VP8L": b"RIFF\x1e\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + b"\xff\xff\xff\x0f" * 3,
    "webp, VP8": b"RIFF\x1e\0\0\0WEBPVP8 \x0a\0\0\0" + bytes(6) + b"\xff\x3f" * 2,
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_what_declares_too_much_is_refused_by_its_header(name):
    for read in (decode_image, read_size):
        with pytest.raises(UnreadableImage, match=r"^it: .*pixels, expected at most"):
            read(Encoded(LARGE[name], "it"))


def test_a_large_tile_is_refused():
    file = grey_tiff(1, RAMP).data
    tile = struct.pack("<HHII", 322, 4, 1, 12000) + struct.pack(
        "<HHII", 323, 4, 1, 9000
    )
    place = file.index(struct.pack("<HHI", 273, 4, 1))
    file = file[:8] + struct.pack("<H", 11) + file[10:place] + tile + file[place:]
    with pytest.raises(UnreadableImage):
        decode_image(Encoded(file, "it"))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def test_no_program_is_started(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(UnreadableImage, match=r"1\.png: .*a PostScript drawing"):
        decode_image(Encoded(EPS, "train/cat/1.png"))


NOISE = np.random.default_rng(0).integers(0, 256, (30, 30), np.uint8)
DAMAGED = {
    "nothing": b"",
    "eps": EPS,
    "ppm without numbers": b"P6 \xff\xfe",
    "ppm of no height": b"P6 4 -1 255\n",
    "ppm of letters": b"P3 2 2 255\n1 2 x",
    "ppm of a long token": b"P6 12345678901234567890 1 255\n",
    "png cut": saved(NOISE, "PNG").data[:400],
    "png of no header": b"\x89PNG\r\n\x1a\n" + png(2, 2)[33:] + png(2, 2)[8:],
    "tiff of nothing": b"II*\0\x08\0\0\0",
    "webp cut": PLAIN["WEBP"].data[:30],
    "avif": b"\0\0\0\x1cftypavif" + bytes(40),
    "large": LARGE["jpeg, larger"],
    "levels": grey_tiff(2, np.array([[0, 70000]], np.int32)).data,
}


@pytest.mark.parametrize("image_size", [0, 2])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_bad_picture_is_marked_and_the_others_are_read(name, image_size):
    files = [PLAIN["PPM"], Encoded(DAMAGED[name], "bad"), PLAIN["BMP"]]
    with pytest.raises(UnreadableImage, match=r"^bad: not an image") as error:
        decode_image(files[1])
    assert "object at" not in str(error.value)
    assert "\n" not in str(error.value)
    fields = data_options(image_size=image_size, resize=image_size)
    draws = Draws(0, 0, np.arange(3))
    for batch in (
        eval_transform(fields)({"image": files}),
        train_transform(fields)({"image": files}, draws),
    ):
        assert batch["failed"].tolist() == [False, True, False]
        np.testing.assert_array_equal(batch["image"][[0, 2]], [RED_BLUE] * 2)
        assert not batch["image"][1].any()


def test_running_out_of_memory_is_the_picture_s_fault(monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", fail)
    with pytest.raises(UnreadableImage, match=r"decodes: MemoryError$"):
        decode_image(saved(RED_BLUE, "JPEG"))


def test_an_import_changes_no_setting():
    code = (
        "import cv2, warnings; from absl import flags; from PIL import Image, "
        "PngImagePlugin as p; s = lambda: (cv2.getNumThreads(), Image.MAX_IMAGE_PIXELS,"
        " p.MAX_TEXT_CHUNK, flags.FLAGS.is_parsed(), list(warnings.filters)); a = s();"
        "import diffkd_jax.data.sources.registry, diffkd_jax.data.transforms.labels; "
        "assert a[:4] == s()[:4]; import diffkd_jax.data.pipeline.batches; "
        "assert a[:4] == s()[:4]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
