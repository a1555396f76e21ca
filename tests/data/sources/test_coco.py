"""COCO's json and what is odd about it; the inputs and what is right are goldens."""

import gc
import json
import pickle
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.formats.image_paths import make_finder_below
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import Encoded
from diffkd_jax.data.images.exif import WrongBoxes
from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.data.sources import registry
from diffkd_jax.data.split import hold_out
from diffkd_jax.data.transforms.draws import Draws
from diffkd_jax.tasks.detection.plots import write
from tests.data.transforms.test_boxes import EXPECTED, ODD
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform, train_transform

KINDS = {
    name: entry["expected"]
    for name, entry in EXPECTED.items()
    if name.startswith("coco_")
    and "detections" not in name
    and name != "coco_class_without_truth.json"
}


def folder(tmp_path, name, pictures=True):
    """The file as the one split "train", black pictures beside it."""
    shutil.copy(ODD / name, tmp_path / name)
    if pictures:
        for image in json.loads((ODD / name).read_text())["images"]:
            black = Image.new("RGB", (image["width"], image["height"]))
            black.save(tmp_path / image["file_name"])
    return tmp_path


def options_of(tmp_path, name, **options):
    given = {"annotations": name, "images": "", **options}
    return {"name": "coco", "path": str(tmp_path), "options": given}


def load(tmp_path, name, **options):
    folder(tmp_path, name)
    return registry.load(**options_of(tmp_path, name, **options))


def run(tmp_path, name, options=(), **fields):
    folder(tmp_path, name)
    return open_data(
        data_options(
            **options_of(tmp_path, name, **dict(options)),
            eval_split="train",
            canvas=(64, 64),
            augment="scale_crop_flip",
            train_size=(64, 64),
            scale=(1.0, 1.0),
            **fields,
        )
    )


def objects(dataset):
    split = dataset.splits["train"]
    return split.fetch(np.arange(split.size))["target"]


def kept(target, key="boxes"):
    return target[key][target["valid"]].tolist()


@pytest.mark.parametrize("name", [k for k, v in KINDS.items() if "says" in v])
def test_what_cannot_be_right_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        run(tmp_path, name)
    for word in KINDS[name]["says"]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [k for k, v in KINDS.items() if "says" not in v])
def test_the_others_load(tmp_path, name):
    if name == "coco_boxes_corners.json":
        with pytest.raises(ValueError, match=r"3 of 3 boxes that leave .* 3 of which"):
            load(tmp_path, name)
        load(tmp_path, name, corners=True)
    else:
        assert load(tmp_path, name).splits["train"].size


def test_categories_are_classes_in_order_of_their_ids(tmp_path, caplog):
    name = "coco_category_ids.json"
    expected = KINDS[name]
    data = load(tmp_path, name)
    assert list(data.class_names) == expected["names"]
    ids = data.meta["category_ids"]
    assert {str(own): k for k, own in enumerate(ids)} == expected["id_to_class"]
    labels = kept(objects(data), "classes")
    assert labels == expected["labels"]
    assert [ids[k] for k in labels] == expected["written_category_ids"]
    assert "1 of 4 classes have no annotation: pets (id 0)" in caplog.text
    other = load(tmp_path, name, drop_unused=True)
    right = expected["with_option_drop_unused"]
    assert kept(objects(other), "classes") == right["labels"]
    ids = other.meta["category_ids"]
    assert {str(own): k for k, own in enumerate(ids)} == right["id_to_class"]


def test_boxes_are_clipped_dropped_and_counted(tmp_path, caplog):
    name = "coco_boxes_degenerate.json"
    target = objects(load(tmp_path, name))
    assert kept(target) == KINDS[name]["kept_xyxy"]
    for line in (
        "2 boxes without area, left out: annotation 2, annotation 3",
        "1 boxes outside their image, left out: annotation 5",
        "1 boxes with a side below 1 pixel, left out: annotation 8",
        "2 boxes beyond the edge of their image, clipped: annotation 4, annotation 6",
    ):
        assert line in caplog.text
    assert len(caplog.records) == 4


def test_boxes_in_corners_are_read_as_such_by_option(tmp_path):
    name = "coco_boxes_corners.json"
    found = objects(load(tmp_path, name, corners=True))
    rows = json.loads((ODD / name).read_text())["annotations"]
    assert kept(found) == [row["bbox"] for row in rows]


def test_empty_pictures_are_for_evaluation(tmp_path, caplog):
    name = "coco_empty_pictures.json"
    expected = KINDS[name]
    ids = lambda split: [json.loads(text) for text in split.box_summary.ids]
    data = run(tmp_path, name)
    assert ids(data.train) == expected["training_pictures_default"]
    assert ids(data.evaluation) == expected["evaluation_pictures"]
    assert "2 of 3 images have no usable object, left out of train" in caplog.text
    data = run(tmp_path, name, keep_empty=True)
    assert ids(data.train) == expected["training_pictures_keep_empty"]
    options = data_options(augment="none", keep_empty=True)
    batch = data.train.fetch(np.array([1, 2]))
    found = train_transform(options)(batch, Draws(0, 0, np.arange(2)))
    assert not found["target"]["valid"].any()
    assert batch["target"]["ignored"].sum() == 1


def test_a_set_of_nothing_can_be_evaluated(tmp_path):
    data = load(tmp_path, "coco_nothing_at_all.json")
    assert not objects(data)["valid"].any()
    assert objects(data)["boxes"].shape[1:] == (1, 4)


def test_crowds_alone_are_objects_by_option(tmp_path):
    data = run(tmp_path, "coco_all_crowd.json", options={"crowd_objects": True})
    assert data.train.box_summary.usable.tolist() == [3]
    target = objects(load(tmp_path, "coco_all_crowd.json"))
    assert target["ignored"].sum() == target["valid"].sum() == 3


def test_a_missing_iscrowd_is_0(tmp_path):
    target = objects(load(tmp_path, "coco_crowd.json"))
    assert target["ignored"][target["valid"]].tolist() == [False, True]


@pytest.mark.parametrize("name", ["zero", "again"])
def test_ids_of_annotations_are_no_truth_values(tmp_path, name, caplog):
    target = objects(load(tmp_path, f"coco_annotation_id_{name}.json"))
    assert target["valid"].sum() == 2
    assert ("repeat; they are numbered anew" in caplog.text) == (name == "again")


def test_ids_may_be_text_and_are_kept(tmp_path):
    name = "coco_string_ids.json"
    split = load(tmp_path, name).splits["train"]
    target = split.fetch(np.arange(3))["target"]
    assert target["valid"].sum(1).tolist() == KINDS[name]["objects_per_picture"]
    texts = [json.loads(own) for own in split.box_summary.ids]
    assert texts == KINDS[name]["written_image_ids"]
    # Of a part of it too.
    rest, held = hold_out(split, 1)
    assert sorted([*rest.box_summary.ids, *held.box_summary.ids]) == sorted(
        split.box_summary.ids
    )


def test_detections_are_written_as_the_file_has_them(tmp_path):
    name = "coco_category_ids.json"
    data = load(tmp_path, name)
    found, split = objects(data), data.splits["train"]
    found["scores"] = found["valid"] * 0.5
    ids = [json.loads(own) for own in split.box_summary.ids]
    predictions = (
        (
            split.name(i),
            {k: x[i] for k, x in found.items()},
            {"id": ids[i], "target": {}},
        )
        for i in range(split.size)
    )
    write(tmp_path, predictions, data.meta)
    rows = json.loads((tmp_path / "detections.json").read_text())
    given = json.loads((ODD / name).read_text())["annotations"]
    for row, annotation in zip(rows, given, strict=True):
        for key in ("image_id", "category_id", "bbox"):
            assert row[key] == annotation[key]
        assert row["score"] == 0.5


def test_segmentations_are_never_looked_at(tmp_path):
    target = objects(load(tmp_path, "coco_segmentation_forms.json"))
    assert target["valid"].sum() == KINDS["coco_segmentation_forms.json"]["boxes"]


@pytest.mark.parametrize("name", ["missing", "zero", "one"])
def test_areas_that_say_nothing(tmp_path, name, caplog):
    file = f"coco_area_{name}.json"
    boxes = [400.0, 2500.0, 12100.0]
    found = kept(objects(load(tmp_path, file)), "area")
    assert found == ([1.0] * 3 if name == "one" else boxes)
    text = {"one": "the area of all 3 objects is 1"}
    assert text.get(name, "3 areas missing or 0, taken from the box") in caplog.text
    assert len(caplog.records) == 1
    caplog.clear()
    assert kept(objects(load(tmp_path, file, box_area=True)), "area") == boxes
    assert not caplog.records


@pytest.mark.parametrize(("area", "box_area"), [(0, False), (900, True)])
def test_areas_of_boxes_are_those_of_what_is_inside(tmp_path, area, box_area):
    file = folder(tmp_path, "coco_area_zero.json") / "a.json"
    data = json.loads((tmp_path / "coco_area_zero.json").read_text())
    one = data["annotations"][0] | {"bbox": [-10, -5, 30, 25], "area": area}
    file.write_text(json.dumps(data | {"annotations": [one]}))
    found = registry.load(**options_of(tmp_path, "a.json", box_area=box_area))
    assert kept(objects(found), "area") == [400]


@pytest.mark.parametrize("name", ["upright", "stored"])
def test_the_size_in_the_json_says_whether_a_picture_is_turned(tmp_path, name):
    file = f"exif_{name}.json"
    expected = EXPECTED[file]["expected"]
    shutil.copy(ODD / file, tmp_path)
    shutil.copy(ODD / "exif_6.jpg", tmp_path)
    data = registry.load(**options_of(tmp_path, file)).splits["train"]
    options = data_options(augment="none")
    batch = eval_transform(options)(data.fetch(np.array([0])))
    (image,), (box,) = batch["image"], batch["target"]["boxes"][0]
    assert list(image.shape[1::-1]) == expected["size_wh"]
    left, top, right, bottom = box.astype(int)
    inside = np.zeros(image.shape[:2], bool)
    inside[top:bottom, left:right] = True
    assert image[inside].mean() > expected["mean_inside_box_above"]
    assert image[~inside].mean() < expected["mean_outside_below"]
    assert batch["target"]["stored_size"].tolist() == [list(image.shape[:2])]


def test_a_picture_of_another_size_is_refused(tmp_path):
    name = "coco_crowd.json"
    split = load(tmp_path, name).splits["train"]
    Image.new("RGB", (48, 48)).save(tmp_path / "1.png")
    with pytest.raises(WrongBoxes, match=r"1.png: found an image of 48x48 .* 64x48"):
        split.fetch(np.array([0]))
    (tmp_path / "1.png").write_bytes(b"broken")
    (picture,) = split.fetch(np.array([0]))["image"]
    assert isinstance(picture, Encoded)


def test_a_size_that_the_file_lacks_is_that_of_the_picture(tmp_path):
    data = json.loads((ODD / "exif_upright.json").read_text())
    del data["images"][0]["width"]
    (tmp_path / "a.json").write_text(json.dumps(data))
    shutil.copy(ODD / "exif_6.jpg", tmp_path)
    split = registry.load(**options_of(tmp_path, "a.json")).splits["train"]
    assert split.box_summary.sides.tolist() == [[24, 16]]


def test_names_of_exports(tmp_path, caplog):
    expected = EXPECTED["export/coco_export.json"]["expected"]
    given = {"annotations": "coco_export.json", "images": "images"}
    with pytest.raises(ValueError, match="no file for 2 of 6 images") as error:
        registry.load("coco", str(ODD / "export"), options=given)
    for word in expected["says"]:
        assert word in str(error.value)
    given["skip_missing"] = True
    split = registry.load("coco", str(ODD / "export"), options=given).splits["train"]
    batch = split.fetch(np.arange(4))
    found = [
        np.asarray(decode_image(image))[0, 0, 0].item() for image in batch["image"]
    ]
    assert found == expected["first_pixel"][:4]
    assert batch["target"]["valid"].sum() == 4
    assert "no file for 2 of 6 images" in caplog.text


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_nothing_above_the_folder_is_read(tmp_path, name):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "in").mkdir()
    assert make_finder_below(tmp_path / "in")(name) is None


def write_coco(root, splits=("train", "val"), pictures=6, categories=None):
    """A small set in COCO's own layout."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split in splits:
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(pictures):
            size = (32, 24) if i % 3 else (24, 32)
            pixels = rng.integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            images.append(
                {"id": 10 * i, "file_name": f"{i}.png", "width": size[0]}
                | {"height": size[1]}
            )
            annotations += [
                {"id": 5 * i + k, "image_id": 10 * i, "category_id": 3 + 2 * (k % 2)}
                | {"bbox": [k, k, 8, 9 + i], "area": 60 + k, "iscrowd": 0}
                for k in range(i % 4)
            ]
        data = {
            "images": images,
            "annotations": annotations,
            "categories": categories
            or [{"id": 5, "name": "b"}, {"id": 3, "name": "a"}],
        }
        file = root / f"annotations/instances_{split}.json"
        file.write_text(json.dumps(data))
    return root


def test_the_layout_of_coco(tmp_path):
    root = write_coco(tmp_path)
    data = registry.load("coco", str(root))
    assert list(data.splits) == ["train", "val"]
    assert data.class_names == ("a", "b")
    assert dict(data.meta) == {"category_ids": [3, 5]}
    only = registry.load("coco", str(root), ("val",))
    assert list(only.splits) == ["val"]
    split = data.splits["val"]
    assert split.name(2).endswith("val/2.png")
    target = split.fetch(np.array([3, 0]))["target"]
    assert target["boxes"].shape == (2, 3, 4)
    assert target["boxes"][0].tolist() == [[k, k, k + 8, k + 12] for k in range(3)]
    assert target["classes"].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert target["valid"].tolist() == [[True] * 3, [False] * 3]
    assert split.box_summary.sides[:2].tolist() == [[32, 24], [24, 32]]


def test_the_json_may_lie_beside_the_pictures(tmp_path):
    root = write_coco(tmp_path)
    for name in ("train", "val"):
        file = root / f"annotations/instances_{name}.json"
        file.rename(root / name / "_annotations.coco.json")
    options = {"annotations": "./{split}/_annotations.coco.json"}
    data = registry.load("coco", str(root), options=options)
    assert {k: split.size for k, split in data.splits.items()} == {"train": 6, "val": 6}
    for pattern in ("/etc/{split}.json", "../{split}.json"):
        with pytest.raises(
            ValueError, match=r"data.options.annotations: found '.*json'"
        ):
            registry.load("coco", str(root), options={"annotations": pattern})


@pytest.mark.parametrize("folder", ["../x", "/etc", "a/../../{split}", ".."])
def test_pictures_stay_below_the_data(tmp_path, folder):
    (tmp_path / "in").mkdir()
    root = str(write_coco(tmp_path / "in"))
    with pytest.raises(ValueError, match=r"data.options.images: found '.*', expected"):
        registry.load("coco", root, options={"images": folder})


def test_the_name_of_a_split_leads_nowhere_else(tmp_path):
    (tmp_path / "in").mkdir()
    root = write_coco(tmp_path / "in", splits=("train",))
    (root / "annotations/instances_train.json").rename(root / "annotations/...json")
    options = {"annotations": "annotations/{split}.json"}
    with pytest.raises(
        ValueError, match=r"data.options.images: found '\.\.', expected"
    ):
        registry.load("coco", str(root), options=options)


def test_splits_must_have_the_same_categories(tmp_path):
    root = write_coco(tmp_path)
    file = root / "annotations/instances_val.json"
    file.write_text(file.read_text().replace('"name": "b"', '"name": "c"'))
    with pytest.raises(ValueError, match="found other categories than in"):
        registry.load("coco", str(root))
    with pytest.raises(FileNotFoundError, match="found no annotations/x_<split>"):
        registry.load(
            "coco", str(root), options={"annotations": "annotations/x_{split}.json"}
        )


def test_a_run_on_files(tmp_path):
    root = write_coco(tmp_path, pictures=13)
    options = data_options(
        name="coco",
        path=str(root),
        eval_split="val",
        augment="resize_flip",
        train_size=(48, 48),
        canvas=(40, 40),
        resize=30,
        resize_longest=40,
        flip=True,
    )
    data = open_data(options)
    batches = pipeline.train_batches(
        data.train,
        train_transform(options),
        batch_size=3,
        seed=0,
        num_epochs=1,
    )
    for batch in batches:
        assert batch["target"]["valid"].any(1).all()
        assert set(batch["size"].ravel()) == {30, 40}
    found = list(
        pipeline.eval_batches(data.evaluation, eval_transform(options), batch_size=5)
    )
    assert sum(batch["mask"].sum() for batch in found) == 13
    # Before pictures are looked at that have no canvas.
    options = options.replace(augment="none", train_size=(), canvas=())
    with pytest.raises(
        ValueError, match=r"data.resize: found 30, expected 0 for images"
    ):
        open_data(options)


BAD = {
    "[1]": "found a list, expected an object with images",
    "{": "not a json of COCO",
    "[" * 100_000: "not a json of COCO",
    '{"images": 3}': "images: found a int, expected a list",
    '{"images": []}': "annotations: found none, expected a list",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_files_that_are_none_of_coco_are_named(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as error:
        registry.load(**options_of(tmp_path, "a.json"))
    assert str(tmp_path / "a.json") in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


ENTRY = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81}
WRONG = [
    ("annotations", {"bbox": "1 1 9 9"}, "annotation 1: found bbox '1 1 9 9', expec"),
    ("annotations", {"bbox": [1, 1, "9", 9]}, r"annotation 1: found bbox \[1, 1, '9'"),
    ("annotations", {"bbox": [1, 1, True, 9]}, r"annotation 1: found bbox \[1, 1, Tr"),
    ("annotations", {"bbox": [1, 1, float("nan"), 9]}, r"found bbox \[1, 1, nan, 9\]"),
    ("annotations", {"bbox": [1, 1, float("inf"), 9]}, r"found bbox \[1, 1, inf, 9\]"),
    ("annotations", {"bbox": [1, 1, 10**400, 9]}, r"found bbox \[1, 1, 1000"),
    (
        "annotations",
        {"bbox": [1e308, 1, 1e308, 9]},
        r"annotation 1: found bbox \[1e\+3",
    ),
    ("annotations", {"bbox": [1, 1, 2e9, 9]}, r", 9\], expected four numbers from -1e"),
    ("annotations", {"bbox": None}, "annotation 1: found bbox None, expected four"),
    ("annotations", {"area": 1e300}, r"annotation 1: found area 1e\+300, expected one"),
    ("annotations", {"area": 2e9}, "annotation 1: found area 2000000000.0, expected o"),
    ("annotations", {"area": "big"}, "annotation 1: found area 'big', expected one"),
    ("annotations", {"iscrowd": 7}, "annotation 1: found iscrowd 7, expected 0 or 1"),
    ("annotations", {"image_id": None}, "annotation 1: found image_id None, expected"),
    ("annotations", {"image_id": 9}, "found image_id of no image in all 1 annot"),
    ("annotations", {"category_id": [1]}, r"annotation 1: found category_id \[1\]"),
    ("images", {"width": -3}, "image 1: found width -3, expected 1 to 1000000"),
    ("images", {"height": 1e9}, "image 1: found height 1000000000.0, expected"),
    ("images", {"id": 1.5}, "image at place 0: found id 1.5, expected a number or"),
    ("images", {"file_name": 3}, "image 1: found file_name 3, expected a path"),
    ("categories", {"name": None}, "categories: found id 1 and name None, expected"),
]


@pytest.mark.parametrize(("part", "change", "message"), WRONG)
def test_entries_that_cannot_be_are_named(tmp_path, part, change, message):
    data = {
        "images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 20}],
        "annotations": [ENTRY],
        "categories": [{"id": 1, "name": "a"}],
    }
    data[part] = [data[part][0] | change]
    (tmp_path / "a.json").write_text(json.dumps(data))
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=message) as error:
        registry.load(**options_of(tmp_path, "a.json"))
    assert "a.json: " in str(error.value)


def test_categories_of_one_name_are_named_once(tmp_path, caplog):
    names = {5: "b", 3: "a", 9: "b", 7: "c", 8: "b", 4: "c"}
    categories = [{"id": own, "name": name} for own, name in names.items()]
    data = registry.load("coco", str(write_coco(tmp_path, categories=categories)))
    assert data.class_names == ("a", "c", "b", "c", "b", "b")
    (found,) = (text for text in caplog.messages if "of one name" in text)
    assert found == (
        f"{tmp_path}/annotations/instances_train.json: categories of one name, kept as "
        "separate classes: 'c' (ids 4, 7), 'b' (ids 5, 8, 9)"
    )


def test_what_is_there_twice_is_named(tmp_path):
    one = {"id": 1, "file_name": "1.png", "width": 20, "height": 20}
    data = {"images": [one, one], "annotations": [], "categories": []}
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="json: found image 1 twice"):
        registry.load(**options_of(tmp_path, "a.json"))


def test_a_million_numbers_are_a_few_arrays(tmp_path):
    """What a worker process gets, and what the garbage collector has to look at."""
    count, pictures = 200_000, 20_000
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 100, (count, 2)).tolist()
    data = {
        "images": [
            {"id": i, "file_name": "1.png", "width": 200, "height": 200}
            for i in range(pictures)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i % pictures,
                "category_id": 1,
                "bbox": [*boxes[i], 20.5, 30],
                "area": 600,
                "segmentation": [[1.5, 2.5] * 6],
            }
            for i in range(count)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    del data
    Image.new("RGB", (200, 200)).save(tmp_path / "1.png")
    gc.collect()
    before = len(gc.get_objects())
    split = registry.load(**options_of(tmp_path, "a.json")).splits["train"]
    gc.collect()
    assert len(gc.get_objects()) - before < 2000
    cloudpickle = pytest.importorskip("cloudpickle")
    assert len(cloudpickle.dumps(split.fetch)) < 10 * 2**20
    assert pickle.dumps(split.box_summary)
    assert split.fetch(np.array([5]))["target"]["valid"].sum() == 10
