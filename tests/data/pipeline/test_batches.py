"""Order, sharding, position and augmentation of batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data import array_splits
from diffkd_jax.data.images.encoded import UnreadableImage
from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.data.pipeline.unreadable import note_skipped
from diffkd_jax.data.transforms import crops
from diffkd_jax.data.transforms.draws import Draws
from diffkd_jax.data.transforms.normalise import make_image_normaliser
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform

SIZE = 50


@pytest.fixture
def split():
    """Pictures that carry their own index in every pixel."""
    image = np.broadcast_to(
        np.arange(SIZE, dtype=np.uint8)[:, None, None, None], (SIZE, 6, 6, 1)
    )
    return array_splits.make_array_split(
        np.array(image), np.arange(SIZE) % 10, 10, "here"
    )


def keep(batch, draws):
    one_each = np.array([rng.random() for rng in draws.generators()])
    return batch | {"draw": np.stack([one_each, *draws.uniform(3).T], 1)}


def batches(split, **kwargs):
    options = {"batch_size": 8, "seed": 3, "num_epochs": 2, "num_threads": 1} | kwargs
    return pipeline.train_batches(split, keep, **options)


def seen(iterator):
    return [batch["image"][:, 0, 0, 0].tolist() for batch in iterator]


def test_epochs_are_permutations_of_their_own(split):
    found = seen(batches(split))
    assert len(found) == 12
    epochs = [np.concatenate(found[:6]).tolist(), np.concatenate(found[6:]).tolist()]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_order_is_a_function_of_the_seed(split):
    assert seen(batches(split)) == seen(batches(split))
    assert seen(batches(split)) != seen(batches(split, seed=4))
    draws = [[b["draw"].tolist() for b in batches(split, seed=s)] for s in (3, 3, 4)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("num_threads", [1, 4])
def test_threads_do_not_change_the_order(split, num_threads):
    assert seen(batches(split, num_threads=num_threads)) == seen(batches(split))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_processes_have_the_batches_of_one(split, count):
    """Contiguous parts in the order of the processes, draws and all."""
    whole = list(batches(split))
    parts = [batches(split, process_index=i, process_count=count) for i in range(count)]
    for together, *split_up in zip(whole, *parts, strict=True):
        assert all(len(part["index"]) == 8 // count for part in split_up)
        joined = jax.tree.map(lambda *x: np.concatenate(x), *split_up)
        jax.tree.map(np.testing.assert_array_equal, joined, together)


def test_draws_of_a_row_do_not_depend_on_its_batch(split):
    """Nor on the size of batches; another epoch, row or seed draws others."""

    def by_row(**options):
        found = {}
        for number, batch in enumerate(batches(split, **options)):
            epoch = number * len(batch["index"]) // 48
            for row, draw in zip(batch["index"], batch["draw"], strict=True):
                found[epoch, int(row)] = tuple(draw)
        return found

    small, large = by_row(batch_size=8), by_row(batch_size=16)
    both = small.keys() & large.keys()
    assert len(both) > 80
    assert all(small[name] == large[name] for name in both)
    other = by_row(seed=4)
    every = [*small.values(), *(other[name] for name in other)]
    assert len({x for draw in every for x in draw}) == 4 * len(every)


def test_draws_are_uniform_and_independent():
    draws = np.concatenate([Draws(s, 0, np.arange(50_000)).uniform(3) for s in (0, 1)])
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogramdd(draws, bins=(8, 8, 8), range=[(0, 1)] * 3)[0]
    # Chi squared of 511 degrees of freedom: 511 +- 32.
    assert 380 < ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 650
    # Of neighbouring rows, epochs, seeds and attempts.
    base, rows = Draws(5, 5, np.arange(50_000)).uniform(1)[:, 0], np.arange(50_000)
    for other in (
        Draws(5, 5, rows + 1),
        Draws(5, 6, rows),
        Draws(6, 5, rows),
        Draws(5, 5, rows, 1),
    ):
        correlation = np.corrcoef(base, other.uniform(1)[:, 0])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(50_000)


@pytest.mark.parametrize("at", [0, 1, 5, 6, 9, 12])
def test_the_position_is_a_function_of_the_step(split, at):
    whole, rest = list(batches(split)), list(batches(split, start=at))
    assert len(rest) == 12 - at
    for a, b in zip(whole[at:], rest, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 51}, "data.batch_size: found 51, expected 1 to 50"),
        ({"batch_size": 0}, "data.batch_size: found 0"),
        ({"batch_size": 9, "process_count": 2}, "multiple of the 2 processes"),
    ],
)
def test_bad_batch_sizes(split, options, message):
    with pytest.raises(ValueError, match=message):
        batches(split, **options)


@pytest.mark.parametrize("process_count", [1, 2])
def test_evaluation_counts_every_example_once(split, process_count):
    found = []
    for i in range(process_count):
        for batch in pipeline.eval_batches(
            split,
            lambda batch: batch,
            batch_size=16,
            process_index=i,
            process_count=process_count,
        ):
            assert len(batch["mask"]) == 16 // process_count
            found += batch["image"][batch["mask"] > 0, 0, 0, 0].tolist()
    assert sorted(found) == list(range(SIZE))


def unreadable(batch, draws=None):
    """As if every fifth picture did not decode."""
    return batch | {"failed": batch["image"][:, 0, 0, 0] % 5 == 0}


def test_unreadable_pictures_are_replaced(split):
    options = {"batch_size": 10, "seed": 3, "num_epochs": 1, "num_threads": 1}
    found = [list(pipeline.train_batches(split, unreadable, **options)) for _ in "ab"]
    known = set()
    for batch, again in zip(*found, strict=True):
        marks = batch["image"][:, 0, 0, 0]
        np.testing.assert_array_equal(marks, again["image"][:, 0, 0, 0])
        np.testing.assert_array_equal(batch["target"]["label"], marks % 10)
        np.testing.assert_array_equal(batch["index"], marks)
        assert (marks % 5 != 0).all()
        known |= set(batch["skipped"].tolist())
        assert "failed" not in batch
    assert known == {-1, *range(0, SIZE, 5)}


def test_nothing_readable_is_an_error(split):
    failed = lambda batch: np.ones(len(batch["image"]), bool)
    nothing = lambda batch, draws: batch | {"failed": failed(batch)}
    options = {"batch_size": 10, "seed": 3, "num_epochs": 1, "num_threads": 1}
    with pytest.raises(UnreadableImage, match="found no image that decodes"):
        next(pipeline.train_batches(split, nothing, **options))


def test_evaluation_masks_unreadable_pictures(split):
    found, skipped = [], set()
    for batch in pipeline.eval_batches(split, unreadable, batch_size=16):
        found += batch["image"][batch["mask"] > 0, 0, 0, 0].tolist()
        skipped |= set(batch["skipped"].tolist())
    assert sorted(found) == [i for i in range(SIZE) if i % 5]
    assert skipped == {-1, *range(0, SIZE, 5)}


def test_unreadable_pictures_are_named_once_and_limited(split, caplog):
    known = {}
    for rows in ([3, -1, -1], [3, 4, -1]):
        note_skipped(np.array(rows), known, split, 0.04)
    assert [r.getMessage() for r in caplog.records] == [
        "skipped, does not decode: example 3",
        "skipped, does not decode: example 4",
    ]
    with pytest.raises(ValueError, match=r"max_unreadable: found 3 of 50 .* example 9"):
        note_skipped(np.array([9]), known, split, 0.04)


def test_worker_processes_change_nothing(split):
    """Order, content and position are those of threads."""
    plain = list(batches(split))
    iterator = batches(split, num_workers=2)
    first = [next(iterator) for _ in range(5)]
    iterator.close()
    other = batches(split, num_workers=2, start=5)
    for a, b in zip(first + list(other), plain, strict=True):
        assert a.keys() == b.keys()
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_crops_and_flips_are_those_of_the_picture():
    image = np.arange(1, 37, dtype=np.uint8).reshape(1, 6, 6, 1)
    padded = np.pad(image[0, :, :, 0], 2)
    candidates = set()
    for top in range(5):
        for left in range(5):
            crop = padded[top : top + 6, left : left + 6]
            candidates |= {crop.tobytes(), crop[:, ::-1].tobytes()}
    drawn = np.random.default_rng(0).random((400, 3))
    many = crops.crop_flip(np.tile(image, (400, 1, 1, 1)), drawn, padding=2, flip=True)
    found = {crop[..., 0].tobytes() for crop in many}
    assert found <= candidates
    assert len(found) == 50


def test_no_padding_no_flip_is_the_identity():
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 3)).astype(np.uint8)
    drawn = np.random.default_rng(0).random((3, 3))
    same = crops.crop_flip(image, drawn, padding=0, flip=False)
    np.testing.assert_array_equal(same, image)


def test_random_resized_crop_keeps_a_constant_picture():
    images = [np.full((40, 30, 3), 7, np.uint8), np.full((10, 90, 3), 9, np.uint8)]
    rng = np.random.default_rng(0)
    for image in images:
        for exact in (False, True):
            crop = crops.random_resized_crop(
                image, rng, size=16, flip=True, exact=exact
            )
            assert crop.shape == (16, 16, 3)
            assert set(crop.ravel()) == {image[0, 0, 0]}


def test_center_crop_takes_the_centre():
    image = np.zeros((40, 60, 1), np.uint8)
    image[10:30, 20:40] = 255
    crop = crops.center_crop(image, size=20, resize=40)
    assert (crop == 255).all()


OPTIONS = data_options(augment="crop_flip", padding=1, flip=True)


def test_pictures_are_normalised_on_either_side():
    image = np.full((4, 6, 6, 1), 255, np.uint8)
    for array in (image, jnp.asarray(image)):
        out = make_image_normaliser(OPTIONS, 1)(array)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, 1.0)


def test_bad_transforms_are_named():
    with pytest.raises(ValueError, match=r"data\.augment: found 'mixup'"):
        data_options(augment="mixup")
    with pytest.raises(ValueError, match=r"data\.mean: found 2 numbers"):
        make_image_normaliser(data_options(mean=(0.1, 0.2)), 3)
    mixed = {"image": [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]}
    with pytest.raises(ValueError, match=r"data\.image_size: found 0"):
        eval_transform(OPTIONS)(mixed)


def test_grey_pictures_as_rgb(split):
    options = OPTIONS.replace(channels=3, mean=(0.0, 0.5, 1.0))
    image = eval_transform(options)(split.fetch(np.array([7])))["image"]
    image = make_image_normaliser(options, 1)(image)
    assert image.shape == (1, 6, 6, 3)
    np.testing.assert_allclose(image[0, 0, 0], (7 / 255 - np.array([0, 0.5, 1])) / 0.5)


def test_interpolation_is_the_one_asked_for():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    found = {
        name: crops.center_crop(image, size=16, resize=20, interpolation=name)
        for name in ("bilinear", "bicubic")
    }
    assert (found["bilinear"] != found["bicubic"]).any()
    for name, resample in (("bilinear", 2), ("bicubic", 3)):
        # 40x30 becomes 26x20, of which the central 16x16 begin at row 5, column 2.
        picture = Image.fromarray(image).resize((20, 26), resample)
        picture = picture.crop((2, 5, 18, 21))
        np.testing.assert_array_equal(found[name], np.asarray(picture))


@pytest.mark.parametrize(
    ("field", "value"), [("interpolation", "nearest"), ("channels", 4)]
)
def test_unknown_picture_options_are_named(field, value):
    with pytest.raises(ValueError, match=f"data.{field}: found {value!r}"):
        data_options(**{field: value})
