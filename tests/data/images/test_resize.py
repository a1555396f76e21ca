"""Pictures as arrays and as files, decoded at reduced size, cropped and resized."""

import io

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.images import decoding, resize
from diffkd_jax.data.images.encoded import Encoded, UnreadableImage
from diffkd_jax.data.transforms.crops import random_resized_crop


def smooth(height=375, width=500):
    """A colour picture without fine detail, so that any good resize agrees."""
    y, x = np.mgrid[:height, :width] / 100.0
    waves = [np.sin(x + 2 * y), np.cos(3 * x - y), np.sin(2 * x * y / 3)]
    return (127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


def encoded(image, kind="JPEG", mode="RGB", **options):
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, kind, **options)
    return Encoded(stream.getvalue(), f"picture.{kind.lower()}")


def test_a_jpeg_is_decoded_as_pillow_does():
    file = encoded(smooth(), quality=92)
    expected = np.asarray(Image.open(io.BytesIO(file.data)))
    np.testing.assert_array_equal(resize.decode_image(file), expected)
    assert resize.read_size(file) == (375, 500)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "L")])
def test_other_formats_are_rgb(kind, mode):
    file = encoded(smooth(), kind, mode)
    expected = np.asarray(Image.fromarray(smooth()).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(resize.decode_image(file), expected)
    assert resize.read_size(file) == (375, 500)


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_jpegs_of_other_colour_spaces_are_rgb(mode):
    file = encoded(smooth(), mode=mode, quality=95)
    expected = np.asarray(Image.open(io.BytesIO(file.data)).convert("RGB"))
    assert np.abs(resize.decode_image(file) - expected.astype(int)).max() <= 2


BOXES = [(0, 0, 500, 375), (13, 40, 210, 300), (101, 50, 131, 90), (7, 3, 490, 363)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [32, 64, 160, 224])
@pytest.mark.parametrize("interpolation", resize.INTERPOLATIONS)
def test_fast_crops_are_near_the_exact_ones(box, size, interpolation):
    file = encoded(smooth(), quality=98)
    fast = resize.crop_fast(file, box, size, interpolation)
    exact = resize.crop_exact(file, box, size, interpolation)
    assert fast.shape == exact.shape == (size, size, 3)
    # Much nearer than to another box, a tenth of the width further.
    moved = resize.crop_exact(smooth(), _moved(box), size, interpolation)
    assert _mean(fast, exact) < 0.15 * _mean(fast, moved)


def _mean(a, b):
    return np.abs(a.astype(int) - b).mean()


def _moved(box):
    left, top, right, bottom = box
    shift = 0.1 * (right - left) * (-1 if right > 450 else 1)
    return max(0, left + shift), top, min(500, right + shift), bottom


def test_a_jpeg_is_decoded_small_where_the_crop_allows(monkeypatch):
    file, sizes = encoded(smooth()), []
    original = decoding.simplejpeg.decode_jpeg

    def recorded(*args, **kwargs):
        sizes.append(original(*args, **kwargs).shape[:2])
        return original(*args, **kwargs)

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", recorded)
    for size, box in [
        (32, (0, 0, 500, 375)),
        (160, (0, 0, 500, 375)),
        (32, (0, 0, 60, 50)),
    ]:
        resize.crop_fast(file, box, size, "bilinear")
    assert sizes == [(47, 63), (188, 250), (375, 500)]
    assert all(min(a) >= 32 for a in sizes)


@pytest.mark.parametrize("channels", [1, 3])
def test_mirror_reverses_the_columns(channels):
    image = smooth(5, 7)[..., :channels]
    np.testing.assert_array_equal(resize.mirror(image), image[:, ::-1])


def test_grey_arrays_stay_grey():
    crop = resize.crop_fast(smooth()[..., :1], (0, 0, 100, 100), 16, "bilinear")
    assert crop.shape == (16, 16, 1)


@pytest.mark.parametrize(
    "data",
    [b"", b"text", encoded(smooth()).data[:4000], encoded(smooth(), "PNG").data[:400]],
)
def test_what_does_not_decode_is_named(data):
    file = Encoded(data, "train/cat/7.jpeg")
    for read in (
        resize.decode_image,
        lambda f: resize.crop_fast(f, (0, 0, 300, 300), 32, "bilinear"),
        lambda f: resize.crop_exact(f, (0, 0, 300, 300), 32, "bilinear"),
        lambda f: random_resized_crop(f, np.random.default_rng(0), size=32, flip=True),
    ):
        with pytest.raises(UnreadableImage, match=r"^train/cat/7\.jpeg: not an image"):
            read(file)
