"""Evaluation crops are those of torchvision, written out here with Pillow."""

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.images.encoded import UnreadableImage
from diffkd_jax.data.transforms.crops import center_crop
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform


def resized_then_cropped(picture, resize, size):
    """Resize(resize), CenterCrop(size) of a Pillow picture, step by step."""
    width, height = picture.size
    if width <= height:
        new = (resize, int(resize * height / width))
    else:
        new = (int(resize * width / height), resize)
    picture = picture.resize(new, Image.Resampling.BILINEAR)
    width, height = picture.size
    if width < size or height < size:
        left, top = max((size - width) // 2, 0), max((size - height) // 2, 0)
        right, bottom = (
            max((size - width + 1) // 2, 0),
            max((size - height + 1) // 2, 0),
        )
        padded = Image.new(
            picture.mode, (left + width + right, top + height + bottom), 0
        )
        padded.paste(picture, (left, top))
        picture = padded
        width, height = picture.size
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return picture.crop((left, top, left + size, top + size))


@pytest.mark.parametrize(
    ("height", "width"),
    [(375, 500), (500, 375), (333, 500), (31, 47), (64, 64), (20, 90), (7, 5)],
)
@pytest.mark.parametrize(
    ("resize", "size"), [(256, 224), (36, 32), (33, 32), (32, 32), (20, 31), (9, 30)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_equal_to_the_bit(height, width, resize, size, channels):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, channels), np.uint8)
    picture = Image.fromarray(image if channels == 3 else image[..., 0])
    expected = np.asarray(resized_then_cropped(picture, resize, size))
    found = center_crop(image, size=size, resize=resize)
    np.testing.assert_array_equal(found, expected.reshape(size, size, channels))


def test_a_picture_too_narrow_is_unreadable():
    with pytest.raises(UnreadableImage, match="found 1x60000 pixels, too narrow"):
        center_crop(np.zeros((60000, 1, 3), np.uint8), size=224, resize=256)


def options(**own):
    return data_options(**{"image_size": 8} | own)


def test_resize_is_the_image_size_by_default():
    image = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    found = [
        eval_transform(options(resize=n))({"image": image})["image"] for n in (0, 8)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"augment": "resized_crop", "image_size": 0}, r"data\.image_size: found 0"),
        (
            {"image_size": -1},
            r"data\.image_size: found -1, expected an integer at least 0",
        ),
        ({"image_size": 10**9}, r"data\.image_size: found 1000000000"),
        ({"resize": -4}, r"data\.resize: found -4"),
        ({"padding": -1}, r"data\.padding: found -1, expected an integer at least 0"),
        ({"holdout": -1}, r"data\.holdout: found -1"),
        ({"limit": -5}, r"data\.limit: found -5"),
        (
            {"batch_size": 0},
            r"data\.batch_size: found 0, expected an integer at least 1",
        ),
        ({"eval_batch_size": -2}, r"data\.eval_batch_size: found -2"),
        ({"num_threads": -1}, r"data\.num_threads: found -1"),
        ({"num_workers": -1}, r"data\.num_workers: found -1"),
        ({"max_unreadable": float("nan")}, r"data\.max_unreadable: found nan"),
        (
            {"max_unreadable": 2.0},
            r"data\.max_unreadable: found 2\.0, expected a number",
        ),
        ({"color_jitter": float("nan")}, r"data\.color_jitter: found nan"),
        (
            {"rand_augment": 11.0},
            r"data\.rand_augment: found 11\.0, expected a number",
        ),
    ],
)
def test_fields_out_of_range_are_named(own, message):
    with pytest.raises(ValueError, match=message):
        options(**own)
