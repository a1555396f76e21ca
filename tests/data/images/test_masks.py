"""Mask files and what is odd about them; the inputs and what is right are goldens."""

import io
import json
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import Encoded, UnreadableImage
from diffkd_jax.data.images.mask_rules import (
    MaskRule,
    WrongMask,
    parse_rule,
    to_classes,
)
from diffkd_jax.data.images.masks import EncodedMask, read_mask
from diffkd_jax.data.sources import registry
from diffkd_jax.data.sources.arrays import make_mask_split
from diffkd_jax.data.split import Split
from diffkd_jax.data.transforms import mask_survey
from diffkd_jax.data.transforms import masks as masks_of_views
from tests.helpers.data_options import data_options
from tests.helpers.goldens import GOLDEN

ODD = GOLDEN / "dense/odd"
EXPECTED = json.loads((ODD / "index.json").read_text())
RIGHT = np.load(ODD / "mask_index.npz")["index"]


def read(name, rule=None, **rules):
    rule = rule or parse_rule(**{"classes": 3} | rules)
    return read_mask(EncodedMask((ODD / name).read_bytes(), name, rule))


def right(name):
    """With what should be there, and -1 where it is refused."""
    after = EXPECTED[name]["expected"]["after"]
    return np.array([[-1 if v is None else v for v in row] for row in after])


def table(name):
    return EXPECTED[name]["expected"]["table"]


def png(values, **options):
    stream = io.BytesIO()
    Image.fromarray(values, **options).save(stream, "PNG")
    return stream.getvalue()


def test_palettes_give_indices_and_never_colours():
    np.testing.assert_array_equal(read("mask_palette.png"), RIGHT)


def test_colours_need_a_table():
    with pytest.raises(WrongMask, match=r"mask_rgb.png: .* 3 channels.*data.options"):
        read("mask_rgb.png")
    colours = table("mask_rgb.png")
    np.testing.assert_array_equal(read("mask_rgb.png", colours=colours), RIGHT)
    del colours["0,128,0"]
    with pytest.raises(WrongMask, match=r"mask_rgb.png: found the colours 0,128,0"):
        read("mask_rgb.png", colours=colours)


def test_a_palette_in_another_order_is_put_right_by_a_table():
    name = "mask_palette_other_order.png"
    # A part of the picture, as it is given.
    found = read(name, colours=table(name))
    np.testing.assert_array_equal(found, RIGHT[: found.shape[0], : found.shape[1]])
    used = sorted(np.unique(read(name, classes=4)))
    assert used == EXPECTED[name]["expected"]["indices_used"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("mask_grey_of_rgb.png", MaskRule(3)),
        ("city_000000_000019_gtFine_labelIds.png", MaskRule(19)),
    ],
)
def test_values_that_are_no_class_are_named(name, rule):
    also = "#as_folder" if "city" in name else ""
    with pytest.raises(WrongMask) as error:
        read(name, rule)
    for word in EXPECTED[name + also]["expected"]["says"]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_masks_of_0_and_255_need_a_mapping():
    counts = EXPECTED["mask_binary_255.png"]["expected"]["counts_with_mapping"]
    found = read("mask_binary_255.png", classes=2, mapping="0:0 255:1")
    assert {str(k): int((found == k).sum()) for k in (0, 1)} == counts


@pytest.mark.parametrize("mapping", ["0:255 1:0 2:1 3:2", {0: 255, 1: 0, 2: 1, 3: 2}])
def test_a_mapping_shifts_once_and_names_what_it_lacks(mapping):
    name = "mask_zero_is_void.png"
    with pytest.raises(
        WrongMask, match=f"{name}: found the value 254, expected 0 to 2"
    ):
        read(name, mapping=mapping)
    with Image.open(ODD / name) as image:
        values = np.array(image)
    expected = right(name)
    values[expected < 0] = 255
    found = to_classes(values, parse_rule(3, mapping), name)
    np.testing.assert_array_equal(found[expected >= 0], expected[expected >= 0])


def test_a_class_can_be_left_out():
    found = to_classes(np.array([0, 1, 2, 255]), parse_rule(3, "1:255"), "here")
    assert found.tolist() == [0, 255, 2, 255]


def test_negative_values_are_void_where_it_is_said():
    values, name = np.load(ODD / "mask_minus_one.npz")["mask"], "mask_minus_one.npz"
    found = to_classes(values, parse_rule(3, "-1:255"), name)
    np.testing.assert_array_equal(found, right(name))
    with pytest.raises(WrongMask, match="found the value -1"):
        to_classes(values, MaskRule(3), name)


def test_two_values_do_not_become_one_class_by_silence():
    with pytest.raises(WrongMask, match="found the value 0, expected"):
        to_classes(np.array([0, 1, 2]), parse_rule(2, "1:0 2:1"), "here")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, bool])
def test_values_of_any_integers_are_the_same_classes(dtype):
    values = np.array([[0, 1], [1, 0]]).astype(dtype)
    found = to_classes(values, MaskRule(2), "here")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[0, 1], [1, 0]])


def test_far_and_broken_values_are_named():
    for values in (np.array([0, 2**40]), np.array([-(2**40), 0]), np.array([256])):
        with pytest.raises(WrongMask, match="here: found the value"):
            to_classes(values, MaskRule(3), "here")
    with pytest.raises(WrongMask, match="found values float64"):
        to_classes(np.array([0.5]), MaskRule(3), "here")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_not_spread(bits):
    """Pillow reads the classes 0 to 3 of two bits as 0, 85, 170, 255."""
    values = np.arange(2**bits, dtype=np.uint8)[None].repeat(3, 0)
    data = grey_png(values, bits)
    np.testing.assert_array_equal(
        read_mask(EncodedMask(data, "few.png", MaskRule(16))), values
    )


def grey_png(values, bits):
    import struct
    import zlib

    def chunk(kind, data):
        end = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", end)

    height, width = values.shape
    text = ["".join(f"{v:0{bits}b}" for v in row) for row in values]
    rows = [int(t.ljust(-(-len(t) // 8) * 8, "0"), 2) for t in text]
    size = -(-width * bits // 8)
    raw = b"".join(b"\0" + row.to_bytes(size, "big") for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part)
        for part in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(raw)),
            (b"IEND", b""),
        )
    )


def test_sixteen_bits_are_read_where_they_are_classes():
    values = np.array([[0, 2], [255, 1]], np.uint16)
    mask = EncodedMask(png(values), "deep.png", MaskRule(3))
    np.testing.assert_array_equal(read_mask(mask), values)
    mask = EncodedMask(png(values + np.uint16(300)), "deep.png", MaskRule(3))
    with pytest.raises(WrongMask, match=r"deep.png: found the values 300, 301, 302"):
        read_mask(mask)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB"])
def test_other_channels_are_refused(mode):
    stream = io.BytesIO()
    Image.new(mode, (4, 4)).save(stream, "PNG")
    with pytest.raises(WrongMask, match=r"x.png: found PNG of . channels, expected a"):
        read_mask(EncodedMask(stream.getvalue(), "x.png", MaskRule(3)))


def test_a_jpeg_is_no_mask_and_rubbish_does_not_decode():
    stream = io.BytesIO()
    Image.new("L", (4, 4)).save(stream, "JPEG")
    with pytest.raises(WrongMask, match=r"x.jpg: found JPEG of 1 channels, expected a"):
        read_mask(EncodedMask(stream.getvalue(), "x.jpg", MaskRule(3)))
    good = (ODD / "mask_0_2.png").read_bytes()
    for data in (b"", b"rubbish", good[:60]):
        with pytest.raises(UnreadableImage, match=r"x.png: not an image"):
            read_mask(EncodedMask(data, "x.png", MaskRule(3)))
    huge = grey_png(np.zeros((1, 8), np.uint8), 1)
    huge = huge[:16] + (2**30).to_bytes(4, "big") * 2 + huge[24:]
    with pytest.raises(UnreadableImage, match=r"x.png: not an image"):
        read_mask(EncodedMask(huge, "x.png", MaskRule(3)))


@pytest.mark.parametrize("name", ["mask_palette.png", "mask_0_2.png", "mask_rgb.png"])
def test_damaged_files_are_named_whatever_the_damage(name):
    good, rng = (ODD / name).read_bytes(), np.random.default_rng(0)
    rule = parse_rule(3, colours=table("mask_rgb.png"))
    for _ in range(200):
        data = bytearray(good)
        for place in rng.integers(8, len(data), int(rng.integers(1, 4))):
            data[place] = rng.integers(256)
        said = ""
        try:
            classes = read_mask(EncodedMask(bytes(data), name, rule))
            assert set(np.unique(classes)) <= {0, 1, 2, 255}
        except (UnreadableImage, WrongMask) as error:
            said = str(error)
        assert said == "" or re.fullmatch(f"{name}: .*", said)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_large_masks_are_read_in_parts(dtype):
    """And a wrong value in the last part is found."""
    values = np.zeros((1025, 1030), dtype)
    values[-1] = 1
    found = read_mask(EncodedMask(png(values), "large.png", MaskRule(2)))
    np.testing.assert_array_equal(found, values)
    colours = np.repeat(values[..., None].astype(np.uint8) * 9, 3, -1)
    rule = parse_rule(2, colours="0,0,0:0 9,9,9:1")
    found = read_mask(EncodedMask(png(colours), "large.png", rule))
    np.testing.assert_array_equal(found, values)
    values[-1, -1] = 7
    with pytest.raises(WrongMask, match=r"large.png: found the value 7, expected"):
        read_mask(EncodedMask(png(values), "large.png", MaskRule(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mapping": "0:9"},
            r"data.options.mapping: found '0:9', expected '0:255 1:0'",
        ),
        ({"mapping": "0-1"}, r"data.options.mapping: found '0-1'"),
        ({"mapping": 7}, r"data.options.mapping: found '7'"),
        ({"mapping": "0:1 0:2"}, "expected each value once"),
        ({"colours": "0,0:1"}, r"data.options.colours: found '0,0:1'"),
        ({"colours": "0,0,300:1"}, r"data.options.colours: .*levels 0 to 255"),
        ({"turn": "yes"}, r"data.options.turn: found 'yes'"),
        ({"classes": 256}, r"data.options.classes: found 256"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        parse_rule(**{"classes": 3} | options)


@pytest.mark.parametrize("name", ["mask_one_short", "mask_turned", "mask_half"])
def test_a_mask_of_another_size_is_refused(name):
    file = f"pair/{name}.png"
    picture = Encoded((ODD / "pair/picture.png").read_bytes(), "pair/picture.png")
    mask = EncodedMask((ODD / file).read_bytes(), file, MaskRule(3))
    with pytest.raises(WrongMask) as error:
        masks_of_views.decode_pair(picture, mask)
    for word in EXPECTED[file]["expected"]["says"]:
        assert word in str(error.value)


def photo():
    return Encoded((ODD / "exif_6.jpg").read_bytes(), "exif_6.jpg")


def test_a_photo_is_turned_where_its_mask_has_that_size():
    mask = (ODD / "exif_mask_upright.png").read_bytes()
    pixels, classes = masks_of_views.decode_pair(
        photo(), EncodedMask(mask, "m.png", MaskRule(2))
    )
    assert pixels.shape[1::-1] == (16, 24)
    assert pixels[classes == 1].mean() > 200
    assert pixels[classes == 0].mean() < 60


def test_a_photo_stays_as_its_mask_lies():
    stored = decode_image(photo())
    classes = (stored[..., 0] > 128).astype(np.uint8)
    pixels, _ = masks_of_views.decode_pair(
        photo(), EncodedMask(png(classes), "m.png", MaskRule(2))
    )
    np.testing.assert_array_equal(pixels, stored)
    with pytest.raises(WrongMask, match=r"m.png: found 16x16 pixels for exif_6.jpg of"):
        masks_of_views.decode_pair(
            photo(), EncodedMask(png(classes[:, :16]), "m.png", MaskRule(2))
        )


def test_photos_that_stay_as_they_are_stored_are_said(caplog):
    mask = EncodedMask(png(np.zeros((16, 24), np.uint8)), "m.png", MaskRule(1))
    batch = {"image": [photo()], "target": {"label": [mask]}}
    mask_survey.inspect_masks(Split(1, lambda rows: batch), ("sky",), "train")
    assert "1 of these images have the size of their mask as stored" in caplog.text
    assert "exif_6.jpg" in caplog.text


def test_a_square_photo_is_turned_unless_the_rule_says_no():
    stream = io.BytesIO()
    square = np.zeros((16, 16, 3), np.uint8)
    square[:8] = 255
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(square).save(stream, "PNG", exif=exif)
    picture = Encoded(stream.getvalue(), "square.png")
    mask = png(np.zeros((16, 16), np.uint8))
    turned, _ = masks_of_views.decode_pair(
        picture, EncodedMask(mask, "m.png", MaskRule(2))
    )
    np.testing.assert_array_equal(turned, np.rot90(square, -1))
    kept, _ = masks_of_views.decode_pair(
        picture, EncodedMask(mask, "m.png", MaskRule(2, turn=False))
    )
    np.testing.assert_array_equal(kept, square)


def write_folders(root, names, size=(12, 10), value=1):
    rng = np.random.default_rng(0)
    for name in names:
        for part, end, shape in (
            ("images", ".jpg", (*size, 3)),
            ("masks", ".png", size),
        ):
            file = root / part / f"{name}{end}"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 2 if part == "masks" else 256, shape)
            pixels = pixels * value if part == "masks" else pixels
            Image.fromarray(pixels.astype(np.uint8)).save(file)


def masked_options(path, **fields):
    own = {"name": "masks", "path": str(path), "options": {"classes": "sky,tree"}}
    own |= {"eval_split": "val", "augment": "none"}
    return data_options(**own | fields)


def test_folders_are_paired_by_name(tmp_path, caplog):
    names = ["train/a", "train/b", "train/deep/c", "train/d e", "val/a"]
    write_folders(tmp_path, names)
    (tmp_path / "masks/train/d e.png").rename(tmp_path / "masks/train/d%20e.png")
    (tmp_path / "images/train/b.jpg").unlink()
    (tmp_path / "masks/train/a.png").rename(tmp_path / "masks/train/A.png")
    split = registry.load(
        "masks", str(tmp_path), options={"classes": ("sky", "tree")}
    ).splits["train"]
    assert [pathlib.Path(split.name(i)).name for i in range(split.size)] == (
        ["d e.jpg", "c.jpg"]
    )
    text = caplog.text
    assert "1 images without a mask, left out: a.jpg" in text
    assert "2 masks without an image, left out: A.png, b.png" in text


def test_what_folders_lack_is_named(tmp_path):
    load = lambda **o: registry.load("masks", str(tmp_path), options=o)
    with pytest.raises(
        ValueError, match=r"data.options.classes: found ''.*classes.txt"
    ):
        load()
    (tmp_path / "classes.txt").write_text("sky\ntree\n")
    with pytest.raises(FileNotFoundError, match="found no folder images"):
        load()
    write_folders(tmp_path, ["train/a"])
    data = load()
    assert data.class_names == ("sky", "tree")
    assert data.meta["ignore"] == 255
    (tmp_path / "images/train/a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"found a.jpg and a.png, expected one file"):
        load()
    with pytest.raises(
        ValueError, match=r"data.options: found \['size'\], expected an"
    ):
        load(size=3)


def test_the_masks_of_a_split_are_looked_at(tmp_path, caplog):
    write_folders(tmp_path, ["train/a", "train/b", "val/a"], value=255)
    open_data(masked_options(tmp_path))
    assert "classes without a pixel in 2 of 2 masks of masks train: tree" in caplog.text
    mapping = {"options": {"classes": 2, "mapping": "0:0 255:1"}}
    caplog.clear()
    data = open_data(masked_options(tmp_path, **mapping))
    assert "without a pixel" not in caplog.text
    assert data.target["label"].dtype == np.uint8
    everything = {"options": {"classes": 2, "mapping": "0:255"}}
    with pytest.raises(ValueError, match=r"masks train: found no pixel of any class"):
        open_data(masked_options(tmp_path, **everything))


def test_masks_of_much_void_are_said(caplog):
    label = np.zeros((40, 2, 2), np.uint8)
    label[:, 0] = label[:, 1, 0] = 255
    split = make_mask_split(np.zeros((40, 2, 2), np.uint8), label, MaskRule(1), "here")
    mask_survey.inspect_masks(split, ("sky",), "train")
    assert "16 of 40 masks of train: 75 % of the pixels are void" in caplog.text


def test_masks_of_one_s_own_are_checked():
    """Arrays that a function of somebody else gives."""
    image = np.zeros((2, 3, 3, 1), np.uint8)
    split = lambda label: Split(
        2, lambda rows: {"image": image[rows], "target": {"label": label[rows]}}
    )
    label = np.full((2, 3, 3), 7, np.uint8)
    with pytest.raises(WrongMask, match=r"2 masks of train: found the value 7, expect"):
        mask_survey.inspect_masks(split(label), ("sky",), "train")
    with pytest.raises(WrongMask, match=r"found int32 \(3, 3\), expected uint8"):
        masks_of_views.MASKS.evaluate(
            split(label.astype(np.int32)).fetch(np.arange(2)), data_options()
        )


def test_masks_of_nothing_but_void_load():
    found = read("mask_all_ignored.png")
    assert (found == 255).all()


def test_a_split_that_is_not_used_is_not_looked_at(tmp_path):
    """Such as a test split whose masks are kept secret, and all void."""
    image, label = np.zeros((2, 4, 4, 3), np.uint8), np.ones((2, 4, 4), np.uint8)
    label[0] = 0
    arrays = {f"{name}/image": image for name in ("train", "val", "test")}
    arrays |= {"train/label": label, "val/label": label}
    np.savez(tmp_path / "a.npz", **arrays, **{"test/label": np.full_like(label, 255)})
    fields = {"name": "npz", "options": {}}
    data = open_data(masked_options(tmp_path / "a.npz", **fields))
    assert set(data.splits) == {"train", "val", "test"}
    with pytest.raises(ValueError, match=r"test: found no pixel of any class in 2"):
        open_data(masked_options(tmp_path / "a.npz", **fields, eval_split="test"))


def test_arrays_with_masks(tmp_path):
    image = np.zeros((3, 4, 5, 3), np.uint8)
    label = np.full((3, 4, 5), 2, np.int16)
    label[0, 0] = -1
    arrays = {"train/image": image, "train/label": label}
    np.savez(tmp_path / "a.npz", **arrays)
    load = lambda **o: registry.load("npz", str(tmp_path / "a.npz"), options=o)
    with pytest.raises(WrongMask, match=r"a.npz: train: example 0: found the value -1"):
        load()
    data = load(mapping="-1:255")
    assert data.class_names == ("0", "1", "2")
    found = data.splits["train"].fetch(np.array([0, 2]))["target"]["label"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0, :2, 0], [255, 2])
    np.savez(tmp_path / "a.npz", **arrays | {"train/label": label[:, :3]})
    with pytest.raises(ValueError, match=r"found images \(3, 4, 5, 3\) and labels"):
        load(mapping="-1:255")


def test_voc(tmp_path):
    colours = np.zeros((256, 3), np.uint8)
    for name, folder, end in (("2007_1", "JPEGImages", "jpg"),):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (6, 5)).save(tmp_path / folder / f"{name}.{end}")
    (tmp_path / "SegmentationClass").mkdir()
    mask = Image.fromarray(np.array([[0, 20, 255] * 2] * 5, np.uint8), "P")
    mask.putpalette(colours.ravel().tolist())
    mask.save(tmp_path / "SegmentationClass/2007_1.png")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_1\n")
    data = registry.load("voc", str(tmp_path))
    assert len(data.class_names) == 21
    label = data.splits["train"].fetch(np.array([0]))["target"]["label"]
    assert sorted(np.unique(read_mask(label[0]))) == [0, 20, 255]
    for text, message in (
        ("2007_1\n2007_2", r"train.txt: found names without 2 of their files: JPEG"),
        ("../../secret", r"train.txt: found '../../secret', expected just the name"),
        ("", "found no names"),
    ):
        (lists / "train.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            registry.load("voc", str(tmp_path))


def test_no_mask_is_read_through_a_link_out_of_the_folder(tmp_path):
    write_folders(tmp_path / "data", ["train/a"])
    write_folders(tmp_path / "other", ["train/b"])
    os.symlink(tmp_path / "other/images", tmp_path / "data/images/train/link")
    split = registry.load(
        "masks", str(tmp_path / "data"), options={"classes": 2}
    ).splits["train"]
    assert split.size == 1


def test_arrays_of_one_s_own_are_looked_at_when_fetched():
    """Not only those few that are looked at first."""
    masks = np.zeros((3, 4, 4), np.uint8)
    masks[2, 0, 0], masks[1, 1, 1] = 7, 255
    fetch = lambda rows: {"target": {"label": masks[rows]}}
    checked = masks_of_views.check_arrays(Split(3, fetch), 3)
    checked.fetch(np.array([0, 1]))
    with pytest.raises(WrongMask, match=r"example 2: found the value 7 in its mask"):
        checked.fetch(np.array([1, 2]))


def test_a_canvas_that_is_too_small_is_named_before_anything_is_trained():
    sizes = ((2, 3), (4, 2))
    masks = [np.zeros(size, np.uint8) for size in sizes]
    pictures = [np.zeros((*size, 3), np.uint8) for size in sizes]

    def fetch(rows):
        pick = lambda given: [given[i] for i in rows]
        return {"image": pick(pictures), "target": {"label": pick(masks)}}

    some = Split(2, fetch)
    for canvas in ((), (4, 2)):
        with pytest.raises(ValueError, match=r"expected at least \(4, 3\), height and"):
            mask_survey.inspect_masks(some, ("sky",), "test", canvas)
    mask_survey.inspect_masks(some, ("sky",), "test", (4, 3))
    mask_survey.inspect_masks(some, ("sky",), "train")
