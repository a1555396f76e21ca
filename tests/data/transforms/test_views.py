"""One view for picture and mask, their padding, and the batches they make."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.images.encoded import Encoded, UnreadableImage
from diffkd_jax.data.images.exif import turn_image
from diffkd_jax.data.images.mask_rules import VOID, MaskRule, WrongMask
from diffkd_jax.data.images.masks import EncodedMask, read_mask
from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.data.sources.arrays import make_mask_split
from diffkd_jax.data.split import Split
from diffkd_jax.data.transforms import views as geometry
from diffkd_jax.data.transforms.draws import Draws
from diffkd_jax.data.transforms.masks import has_masks
from tests.data.images.test_masks import ODD, masked_options, write_folders
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform, train_transform

RECIPE = {"scale": (0.5, 2.0), "step": 0.1}


def blocks(rng, size):
    """Classes in blocks of at least four pixels."""
    height, width = (-(-side // 8) for side in size)
    coarse = rng.integers(0, 5, (height, width)).astype(np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]


def test_picture_and_mask_see_the_same():
    """The class of a pixel is its colour wherever that is of one class alone."""
    rng = np.random.default_rng(0)
    same = of = 0
    for _ in range(200):
        size = tuple(int(n) for n in rng.integers(16, 60, 2))
        mask = blocks(rng, size)
        view = geometry.draw_view(size, rng, canvas=(32, 40), **RECIPE)
        picture = geometry.view_image(view, mask[..., None] * 50)[..., 0]
        seen = geometry.view_mask(view, mask)
        inside = np.zeros(seen.shape, bool)
        inside[: view.shown[0], : view.shown[1]] = True
        assert (picture[~inside] == 0).all()
        assert (seen[~inside] == VOID).all()
        assert set(np.unique(seen[inside])) <= set(np.unique(mask))
        sure = inside & (picture % 50 == 0)
        same += (picture[sure] == seen[sure] * 50).sum()
        of += sure.sum()
        # Between two classes lies a third one's colour now and then.
        edges = inside & (abs(picture.astype(int) - seen.astype(int) * 50) > 101)
        assert edges.mean() < 0.1
    assert same / of > 0.995


def test_the_recipe_s_scales_and_places_are_all_drawn():
    rng = np.random.default_rng(0)
    views = [
        geometry.draw_view((100, 200), rng, canvas=(50, 100), **RECIPE)
        for _ in range(4000)
    ]
    scales = {view.whole[0] for view in views}
    assert scales == {50 + 10 * k for k in range(16)}
    counts = np.bincount([view.whole[0] // 10 - 5 for view in views])
    assert counts.min() > 180
    assert 0.45 < np.mean([view.flip for view in views]) < 0.55
    full = [view for view in views if view.whole == (200, 400)]
    assert {v.top for v in full} <= set(range(151))
    assert max(v.top for v in full) > 140
    assert max(v.left for v in full) > 280
    assert min(v.top for v in full) < 10


def test_any_scale_between_where_there_are_no_steps():
    rng = np.random.default_rng(0)
    draw = lambda: geometry.draw_view((1000, 10), rng, canvas=(8, 8), scale=(0.5, 1.5))
    sides = [draw().whole[0] for _ in range(500)]
    assert len(set(sides)) > 300
    assert 500 <= min(sides) < 520
    assert 1480 < max(sides) <= 1500


def test_a_picture_too_large_to_be_resized_is_its_own_fault():
    with pytest.raises(UnreadableImage, match="9000x9000 pixels, too many to be res"):
        geometry.draw_view(
            (9000, 9000), np.random.default_rng(0), canvas=(8, 8), scale=(2.0, 2.0)
        )


def test_mirrored_twice_is_as_before():
    rng = np.random.default_rng(0)
    mask = blocks(rng, (13, 17))
    view = geometry.View((13, 17), 0, 0, (13, 17), (13, 17), flip=True)
    once = geometry.view_mask(view, mask)
    np.testing.assert_array_equal(once, mask[:, ::-1])
    np.testing.assert_array_equal(geometry.view_mask(view, once), mask)
    picture = rng.integers(0, 256, (13, 17, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        geometry.view_image(view, geometry.view_image(view, picture)), picture
    )


def test_no_class_appears_that_was_not_there():
    mask = read_mask(EncodedMask((ODD / "mask_0_2.png").read_bytes(), "m", MaskRule(3)))
    rng = np.random.default_rng(0)
    for _ in range(300):
        canvas = tuple(int(n) for n in rng.integers(1, 90, 2))
        view = geometry.draw_view(mask.shape, rng, canvas=canvas, **RECIPE)
        assert set(np.unique(geometry.view_mask(view, mask))) <= {0, 2, VOID}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation):
    from PIL import ImageOps

    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    with Image.open(stream) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(turn_image(pixels, orientation), expected)


def sizes_split(sizes, broken=(), wrong=()):
    """Pictures of several sizes with masks, some of which do not decode."""
    rng = np.random.default_rng(0)

    def encoded(array):
        stream = io.BytesIO()
        Image.fromarray(np.asarray(array, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    files = []
    for i, size in enumerate(sizes):
        mask = blocks(rng, size)
        mask[0, 0] = 9 if i in wrong else 0
        picture = (
            b"no picture" if i in broken else encoded(mask[..., None] * [50, 0, 9])
        )
        files.append((picture, encoded(mask)))

    def fetch(rows):
        return {
            "image": [Encoded(files[i][0], f"{i}.png") for i in rows],
            "target": {
                "label": [
                    EncodedMask(files[i][1], f"{i}_mask.png", MaskRule(5)) for i in rows
                ]
            },
        }

    return Split(len(sizes), fetch, "{}.png".format)


SIZES = [(20, 30), (40, 24), (33, 33), (25, 50), (64, 16), (40, 40), (30, 20), (18, 9)]
TRAIN = data_options(
    augment="scale_crop_flip", train_size=(32, 40), flip=True, mean=(0.4,), std=(0.3,)
)


def trained(split, **options):
    options = {"batch_size": 4, "seed": 1, "num_epochs": 2, "num_threads": 1} | options
    return list(pipeline.train_batches(split, train_transform(TRAIN), **options))


def test_training_batches_have_one_shape_and_say_what_is_picture():
    batches = trained(sizes_split(SIZES))
    assert len(batches) == 4
    for batch in batches:
        assert batch["image"].shape == (4, 32, 40, 3)
        assert batch["image"].dtype == batch["target"]["label"].dtype == np.uint8
        assert batch["target"]["label"].shape == (4, 32, 40)
        assert batch["size"].dtype == np.int32
        for image, label, (height, width) in zip(
            batch["image"], batch["target"]["label"], batch["size"], strict=True
        ):
            assert (label[height:] == VOID).all()
            assert (label[:, width:] == VOID).all()
            assert (label[:height, :width] != VOID).all()
            assert (image[height:] == 0).all()


def test_batches_do_not_depend_on_processes_threads_or_workers():
    split = sizes_split(SIZES)
    whole = trained(split)
    parts = [trained(split, process_index=i, process_count=2) for i in (0, 1)]
    for together, *halves in zip(whole, *parts, strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *halves)
        jax.tree.map(np.testing.assert_array_equal, joined, together)
    for a, b in zip(whole, trained(split, num_threads=3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_an_example_that_does_not_decode_is_replaced_and_named():
    batches = trained(sizes_split(SIZES, broken=[2, 5]))
    skipped = {int(i) for b in batches for i in b["skipped"]}
    assert skipped == {-1, 2, 5}
    seen = {int(i) for b in batches for i in b["index"]}
    assert not seen & {2, 5}
    for batch in batches:
        assert (batch["target"]["label"] != VOID).any((1, 2)).all()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mask_that_cannot_be_right_ends_in_one_line(workers):
    split = sizes_split(SIZES, wrong=[3])
    with pytest.raises(
        (WrongMask, ValueError, RuntimeError), match=r"3_mask.png: found"
    ):
        trained(split, num_workers=workers)


CANVAS = data_options(canvas=(64, 50))


def evaluated(split, options, batch_size=3):
    transform = eval_transform(options)
    return list(pipeline.eval_batches(split, transform, batch_size=batch_size))


def test_evaluation_pads_to_the_canvas():
    batches = evaluated(sizes_split(SIZES, broken=[0, 1, 2]), CANVAS)
    assert [b["image"].shape for b in batches] == [(3, 64, 50, 3)] * 3
    assert [b["target"]["label"].shape for b in batches] == [(3, 64, 50)] * 3
    sizes = np.concatenate([b["size"][b["mask"] > 0] for b in batches])
    np.testing.assert_array_equal(sizes, SIZES[3:])
    picture = batches[1]["image"][0]
    assert (picture[:25].max(-1) > 0).any()
    label = batches[1]["target"]["label"][0]
    np.testing.assert_array_equal(
        picture[:25, :50, 0], np.where(label == VOID, 0, label * 50)[:25, :50]
    )


def test_pictures_of_one_size_need_no_canvas():
    options = data_options()
    (batch, _) = evaluated(sizes_split([(20, 30)] * 6), options)
    assert batch["image"].shape == (3, 20, 30, 3)
    assert "size" not in batch
    nothing, _ = evaluated(sizes_split([(20, 30)] * 6, broken=[0, 1, 2]), options)
    assert nothing["image"].shape == (3, 20, 30, 3)
    assert nothing["target"]["label"].shape == (3, 20, 30)
    assert not nothing["mask"].any()
    with pytest.raises(ValueError, match=r"data.canvas: found \(\) for images of siz"):
        evaluated(sizes_split(SIZES), options)


def test_a_picture_larger_than_the_canvas_is_refused():
    small = data_options(canvas=(40, 50))
    message = r"data.canvas: found \(40, 50\), expected at least \(64, 16\), .*4.png"
    with pytest.raises(ValueError, match=message):
        evaluated(sizes_split(SIZES), small)


def test_padding_is_zero_after_normalising(tmp_path):
    write_folders(tmp_path, ["train/a", "val/a"])
    data = open_data(
        masked_options(
            tmp_path, augment="scale_crop_flip", train_size=(16, 24), canvas=(20, 20),
            mean=(0.4, 0.5, 0.6), std=(0.3,),
        )
    )  # fmt: skip
    assert data.train_shape == (16, 24, 3)
    assert data.eval_shape == (20, 20, 3)
    assert data.meta["image_size"] == [16, 24]
    assert data.target["label"].shape == (1, 16, 24)
    batch = {"image": np.full((2, 16, 24, 3), 7, np.uint8)}
    size = np.array([[16, 24], [3, 5]], np.int32)
    plain = data.normalise(batch)["image"]
    for found in (
        data.normalise(batch | {"size": size}),
        jax.jit(data.normalise)(batch | {"size": size}),
    ):
        image = np.array(found["image"])
        np.testing.assert_allclose(image[0], plain[0], rtol=1e-6)
        np.testing.assert_allclose(image[1, :3, :5], plain[1, :3, :5], rtol=1e-6)
        assert not image[1, 3:].any()
        assert not image[1, :, 5:].any()
        assert image.dtype == jnp.float32
        np.testing.assert_array_equal(found["size"], size)


def test_pictures_without_masks_are_seen_likewise():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 20, 20, 1)).astype(np.uint8)
    batch = {"image": image, "target": {"label": np.arange(6)}}
    found = train_transform(TRAIN)(batch, Draws(0, 0, np.arange(6)))
    assert found["image"].shape == (6, 32, 40, 1)
    assert found["size"].shape == (6, 2)
    np.testing.assert_array_equal(found["target"]["label"], np.arange(6))


def test_arrays_are_mirrored_with_their_masks():
    label = np.random.default_rng(0).integers(0, 3, (64, 6, 8)).astype(np.uint8)
    split = make_mask_split(label * 90, label, MaskRule(3), "here")
    options = data_options(augment="crop_flip", padding=0, flip=True)
    batch = train_transform(options)(
        split.fetch(np.arange(64)), Draws(0, 0, np.arange(64))
    )
    np.testing.assert_array_equal(batch["image"][..., 0], batch["target"]["label"] * 90)
    mirrored = (batch["target"]["label"] == label[:, :, ::-1]).all((1, 2))
    assert 16 < mirrored.sum() < 48
    assert "size" not in batch


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"augment": "crop_flip", "padding": 4},
            "data.padding: found 4, expected 0 for",
        ),
        (
            {"augment": "resized_crop", "image_size": 8},
            "data.augment: found 'resized_cr",
        ),
        ({"rand_augment": 9.0}, "data.rand_augment: found 9.0, expected 0 for"),
        ({"color_jitter": 0.4}, "data.color_jitter: found 0.4, expected 0 for"),
        (
            {"image_size": 8},
            "data.image_size: found 8, expected 0 for .*data.train_size",
        ),
        ({"eval_size": 8}, "data.eval_size: found 8, expected 0 for .*data.canvas"),
        ({"train_size": (8, 8)}, r"data.train_size: found \(8, 8\), expected \(\) for"),
        (
            {"augment": "scale_crop_flip"},
            r"data.train_size: found \(\), expected a hei",
        ),
        ({"canvas": (8,)}, r"data.canvas: found \(8,\), expected \(\) or a height"),
        (
            {"canvas": (8, 8), "eval_size": 4},
            r"data.canvas: found \(8, 8\), expected \(",
        ),
        ({"scale": (2.0, 1.0)}, r"data.scale: found \(2.0, 1.0\), expected the least"),
        ({"scale_step": -1.0}, "data.scale_step: found -1.0, expected a number at"),
    ],
)
def test_what_is_not_for_masks_is_refused(tmp_path, fields, message):
    write_folders(tmp_path, ["train/a", "val/a"])
    with pytest.raises(ValueError, match=message):
        open_data(masked_options(tmp_path, **fields))


def test_limits_and_held_out_parts_of_masks(tmp_path):
    write_folders(tmp_path, [f"train/{i}" for i in range(9)])
    data = open_data(masked_options(tmp_path, eval_split="holdout", holdout=4, limit=3))
    assert (data.train.size, data.evaluation.size) == (3, 3)
    names = [[s.name(i) for i in range(3)] for s in (data.train, data.evaluation)]
    assert not set(names[0]) & set(names[1])


def test_dense_knows_masks_by_their_target():
    assert has_masks({"label": np.zeros((2, 3, 3), np.uint8)})
    assert not has_masks({})
