"""Names and texts as other programs and systems write them."""

import json

import numpy as np
import pytest

from diffkd_jax.data import open_data
from diffkd_jax.data.formats.text import decode_text, parse_whole_number, read_text
from diffkd_jax.data.sources import registry
from diffkd_jax.tasks import classes
from tests.helpers.data_on_disk import (
    COCO,
    COMPOSED,
    DECOMPOSED,
    POINTER,
    coco_table,
    image_bytes,
    write,
    write_coco,
    write_folders,
    write_mask,
    write_shard,
    xml,
)
from tests.helpers.data_options import data_options

FORMS = [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_classes_are_read_in_each_encoding(tmp_path, encoding, end):
    write(tmp_path / "classes.txt", f"sky{end}{COMPOSED}{end}".encode(encoding))
    write(tmp_path / "images/train/a.png", image_bytes())
    write_mask(tmp_path / "masks/train/a.png")
    assert registry.load("masks", str(tmp_path)).class_names == ("sky", COMPOSED)


@pytest.mark.parametrize(
    "data",
    [
        f"sky\n{COMPOSED}\n".encode("latin-1"),
        "\u5929\u7a7a\n".encode("gb18030"),
        "sky\n".encode("utf-16")[:-1],
        b"sky\0\n",
        POINTER,
    ],
)
def test_lists_in_other_encodings_are_refused_by_name(tmp_path, data):
    write(tmp_path / "classes.txt", data)
    write(tmp_path / "images/train/a.png", image_bytes())
    write_mask(tmp_path / "masks/train/a.png")
    with pytest.raises(ValueError, match=r"classes\.txt: .*found"):
        registry.load("masks", str(tmp_path))


def test_the_line_that_is_no_utf_8_is_named():
    with pytest.raises(ValueError, match="here: line 3: found b'caf"):
        decode_text(b"a\nb\ncaf\xe9\nd\n", "here")


def test_large_texts_are_refused(tmp_path):
    write(tmp_path / "a.txt", b"abc")
    assert read_text(tmp_path / "a.txt", 3) == "abc"
    with pytest.raises(ValueError, match=r"a\.txt: found more than 2 bytes"):
        read_text(tmp_path / "a.txt", 2)


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3), (3.0, 3), ("3.0", 3), ("0.0", 0), ("-2", -2), ("3.", 3)]
    + [(v, None) for v in (3.5, "3.5", "", "a", True, None, float("nan"), "1e3")],
)
def test_whole_numbers(value, number):
    assert parse_whole_number(value) == number


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_a_class_is_one_in_two_normal_forms(tmp_path, first, second):
    write_folders(tmp_path, ("train",), (first, "dog"))
    write_folders(tmp_path, ("test",), (second, "dog"))
    data = registry.load("folder", str(tmp_path))
    assert data.class_names == (COMPOSED, "dog")
    for split in data.splits.values():
        assert np.bincount(split.label).tolist() == [3, 3]


def test_folders_of_one_form_keep_their_names_and_order(tmp_path):
    """As torchvision sorts them: weights from there fit."""
    write_folders(tmp_path, classes=(DECOMPOSED, "caff"))
    assert registry.load("folder", str(tmp_path)).class_names == (DECOMPOSED, "caff")


def test_two_folders_of_one_class_are_joined_and_named(tmp_path, caplog):
    write_folders(tmp_path, ("train",), (COMPOSED, DECOMPOSED, "dog"))
    data = registry.load("folder", str(tmp_path))
    assert data.class_names == (COMPOSED, "dog")
    assert np.bincount(data.splits["train"].label).tolist() == [6, 3]
    assert COMPOSED in caplog.text


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_an_image_and_its_mask_are_a_pair_in_two_normal_forms(tmp_path, first, second):
    write(tmp_path / f"images/{first}/{first}/{first}.png", image_bytes())
    write_mask(tmp_path / f"masks/{second}/{second}/{second}.png")
    data = registry.load("masks", str(tmp_path), (), {"classes": 2})
    split = data.splits[first]
    batch = split.fetch(np.array([0]))
    assert batch["image"][0].data
    assert batch["target"]["label"][0].data


def test_names_as_they_are_come_first(tmp_path):
    """Both forms beside each other are two images with two masks."""
    for name in (COMPOSED, DECOMPOSED):
        write(tmp_path / f"images/train/{name}.png", image_bytes())
        write_mask(tmp_path / f"masks/train/{name}.png")
    split = registry.load("masks", str(tmp_path), (), {"classes": 2}).splits["train"]
    batch = split.fetch(np.arange(2))
    for image, mask in zip(batch["image"], batch["target"]["label"], strict=True):
        assert image.name.rpartition("/")[2] == mask.name.rpartition("/")[2]


@pytest.mark.parametrize(("first", "second"), FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_file_names_of_coco_are_found(tmp_path, first, second, encoding):
    table = coco_table(1, file_name=f"{first}/{first}.png")
    table["categories"][0]["name"] = first
    other = json.loads(json.dumps(table).replace("bolt", second))
    other["categories"][0]["name"] = second
    write_coco(tmp_path, table, (), "train", encoding)
    write_coco(tmp_path, other, (), "val", encoding)
    write(tmp_path / f"images/{second}/{second}.png", image_bytes())
    data = registry.load("coco", str(tmp_path), (), COCO)
    assert data.splits["val"].fetch(np.array([0]))["image"][0].data
    assert len(data.class_names) == 2


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_names_of_voc_are_found(tmp_path, first, second):
    """In lists, xml and ``classes.txt`` against the disk and each other."""
    write(tmp_path / "classes.txt", f"{first}\n")
    write(tmp_path / "ImageSets/Main/train.txt", f"{first}\r\n".encode("utf-16"))
    write(tmp_path / f"Annotations/{second}.xml", xml(second))
    write(tmp_path / f"JPEGImages/{second}.jpg", image_bytes(form="JPEG"))
    split = registry.load("voc_boxes", str(tmp_path)).splits["train"]
    batch = split.fetch(np.array([0]))
    assert batch["image"][0].data
    assert batch["target"]["classes"].tolist() == [[0]]


def test_one_class_in_xml_of_two_forms(tmp_path):
    for i, name in enumerate((COMPOSED, DECOMPOSED)):
        write(tmp_path / f"{i}.xml", xml(name))
        write(tmp_path / f"{i}.png", image_bytes(i))
    assert registry.load("voc_boxes", str(tmp_path)).class_names == (COMPOSED,)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        *(("utf-8-sig", "utf-8"), ("utf-8-sig", "iso-8859-1"), ("utf-16", "utf-16")),
        *(("utf-16", "utf-8"), ("utf-16-be", "utf-8"), ("latin-1", "iso-8859-1")),
        ("cp1252", "windows-1252"),
    ],
)
def test_xml_is_read_by_its_mark_or_declaration(tmp_path, encoding, declared):
    text = f'<?xml version="1.0" encoding="{declared}"?>{xml(COMPOSED)}'
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    write(tmp_path / "a.xml", (mark + text).encode(encoding))
    write(tmp_path / "a.png", image_bytes())
    assert registry.load("voc_boxes", str(tmp_path)).class_names == (COMPOSED,)


def test_xml_in_an_encoding_that_it_does_not_declare_is_refused(tmp_path):
    write(tmp_path / "a.xml", xml(COMPOSED).encode("latin-1"))
    write(tmp_path / "a.png", image_bytes())
    with pytest.raises(ValueError, match=r"a\.xml: not an xml of VOC"):
        registry.load("voc_boxes", str(tmp_path))


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_keys_of_shards_are_compared_in_one_form(tmp_path, first, second):
    members = [(f"{first}.png", image_bytes()), (f"{second}.cls", b"1")]
    write_shard(tmp_path / "train-0.tar", members)
    assert registry.load("tar", str(tmp_path)).splits["train"].label.tolist() == [1]


@pytest.mark.parametrize(("first", "second"), FORMS)
def test_cities_are_compared_in_one_form(tmp_path, first, second):
    stem = f"leftImg8bit/train/{first}/{first}_0"
    write(tmp_path / f"{stem}_leftImg8bit.PNG", image_bytes())
    stem = f"gtFine/train/{second}/{second}_0"
    write_mask(tmp_path / f"{stem}_gtFine_labelTrainIds.png")
    assert registry.load("cityscapes", str(tmp_path)).splits["train"].size == 1


def test_a_path_and_a_split_are_found_in_another_form(tmp_path):
    write_folders(tmp_path / DECOMPOSED, (DECOMPOSED, "test"))
    options = data_options(
        name="folder",
        path=str(tmp_path / COMPOSED),
        train_split=COMPOSED,
        eval_split="test",
    )
    assert open_data(options).train.size == 6


def test_a_teacher_of_the_same_names_in_another_form_fits():
    assert classes.first_difference([COMPOSED, "dog"], [DECOMPOSED, "dog"]) == ""
    assert classes.first_difference(["dog", COMPOSED], [DECOMPOSED, "dog"])


def test_ids_of_coco_are_whole_numbers_in_any_form(tmp_path):
    table = coco_table(3)
    for row in table["annotations"]:
        row["image_id"] = float(row["image_id"])
        row["category_id"] = float(row["category_id"])
        row["iscrowd"] = "0.0"
    write_coco(tmp_path, table)
    for row in table["images"]:
        row["id"] = f"{row['id']}.0"
    for row in table["annotations"]:
        row["image_id"] = f"{row['image_id']:.0f}"
    write_coco(tmp_path, table, split="val")
    data = registry.load("coco", str(tmp_path), (), COCO)
    assert data.meta["category_ids"] == [1, 2]
    for split in data.splits.values():
        assert split.box_summary.usable.tolist() == [2, 2, 2]
    assert data.splits["train"].box_summary.ids[0] == b"0"


def test_labels_of_arrays_are_whole_numbers_in_any_form(tmp_path):
    image = np.zeros((3, 4, 4), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        **{"train/image": image, "train/label": np.array([0.0, 2, 1])},
    )
    split = registry.load("npz", str(tmp_path / "a.npz")).splits["train"]
    assert split.label.tolist() == [0, 2, 1]
    np.savez(
        tmp_path / "a.npz",
        **{"train/image": image, "train/label": np.array([0.5, 2, 1])},
    )
    with pytest.raises(ValueError, match="found labels float64"):
        registry.load("npz", str(tmp_path / "a.npz"))


@pytest.mark.parametrize("names", [("sky", "sky"), (COMPOSED, DECOMPOSED)])
@pytest.mark.parametrize("as_option", [True, False])
def test_names_of_classes_that_stand_twice_are_named(
    tmp_path, names, as_option, caplog
):
    write(tmp_path / "images/train/a.png", image_bytes())
    write_mask(tmp_path / "masks/train/a.png")
    write(tmp_path / "classes.txt", "\n".join(names))
    options = {"classes": names} if as_option else {}
    data = registry.load("masks", str(tmp_path), (), options)
    assert data.class_names == names
    where = "data.options.classes" if as_option else "classes.txt"
    assert f"{where}: names of classes that occur twice" in caplog.text


def test_utf_32_without_a_mark_is_refused():
    with pytest.raises(ValueError, match="expected a text in UTF-8 or UTF-16"):
        decode_text("sky\n".encode("utf-32-le"), "here")
