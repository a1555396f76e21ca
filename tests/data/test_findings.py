"""What cannot be right is counted, named once and refused above a share."""

import io
import shutil
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds

from diffkd_jax.config.data import DataConfig
from diffkd_jax.config.section import Free
from diffkd_jax.data import open_data
from diffkd_jax.data.sources import registry
from tests.helpers.data_on_disk import (
    COCO,
    COMPOSED,
    DECOMPOSED,
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


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def twice(table, **changes):
    """Each annotation once more, with another id."""
    count = len(table["annotations"])
    again = [{**one, "id": one["id"] + count} for one in table["annotations"]]
    table["annotations"] += [{**one, **changes} for one in again]
    return table


def load_coco(path, **options):
    return registry.load("coco", str(path), (), COCO | options).splits["train"]


@pytest.mark.parametrize("crowd", [0, 1])
def test_annotations_that_stand_twice_are_counted(tmp_path, caplog, crowd):
    table = coco_table()
    for one in table["annotations"]:
        one["iscrowd"] = crowd
    write_coco(tmp_path, twice(table))
    split = load_coco(tmp_path)
    (finding,) = split.findings
    assert (finding.number, finding.total) == (6, 12)
    (line,) = [text for text in messages(caplog) if "twice" in text]
    assert "6 of 12 objects" in line
    assert "annotation 6, annotation 7" in line
    assert (split.box_summary.usable + split.box_summary.ignored).tolist() == [4, 4, 4]


def test_annotations_that_stand_twice_are_dropped_when_asked(tmp_path, caplog):
    write_coco(tmp_path, twice(coco_table()))
    split = load_coco(tmp_path, drop_doubles=True)
    assert split.box_summary.usable.tolist() == [2, 2, 2]
    assert not split.findings
    assert "the second left out" in caplog.text


def test_boxes_are_the_same_to_what_texts_of_floats_leave(tmp_path):
    table = coco_table()
    table["annotations"] += [
        {**one, "id": 10 + one["id"], "bbox": [v + 1e-4 for v in one["bbox"]]}
        for one in table["annotations"]
    ]
    write_coco(tmp_path, table)
    assert load_coco(tmp_path).findings[0].number == 6


@pytest.mark.parametrize(
    "change", [{"category_id": 2}, {"bbox": [3, 3, 8, 9]}, {"image_id": 1}]
)
def test_objects_that_differ_are_no_doubles(tmp_path, change):
    table = coco_table()
    del table["annotations"][1:]
    write_coco(tmp_path, twice(table, **change))
    assert not load_coco(tmp_path).findings


def test_objects_of_xml_that_stand_twice_are_counted(tmp_path, caplog):
    write(tmp_path / "1.xml", xml("dog", ("dog", (4, 4, 9, 9)), "dog", "cat"))
    write(tmp_path / "1.png", image_bytes())
    (finding,) = registry.load("voc_boxes", str(tmp_path)).splits["train"].findings
    assert (finding.number, finding.total) == (1, 4)
    assert "1.xml object 3, dog" in caplog.text
    data = registry.load("voc_boxes", str(tmp_path), (), {"drop_doubles": True})
    assert data.splits["train"].box_summary.usable.tolist() == [3]


class Doubled(tfds.core.GeneratorBasedBuilder):
    """Records of one id, and in each an object twice."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        label = tfds.features.ClassLabel(names=["a", "b"])
        inner = {"bbox": tfds.features.BBoxFeature(), "label": label}
        features = {
            "image": tfds.features.Image(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(inner),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        box = tfds.features.BBox(ymin=0.5, xmin=0.25, ymax=1.0, xmax=0.75)
        for i in range(2):
            image = io.BytesIO(image_bytes(i))
            objects = [{"bbox": box, "label": 1}] * 2
            yield i, {"image": image, "image/id": 7, "objects": objects}


def test_objects_of_records_that_stand_twice_are_counted(tmp_path):
    builder = Doubled(data_dir=tmp_path, file_format="array_record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder.download_and_prepare(file_format="array_record")
    split = registry.load("tfds/doubled", str(tmp_path)).splits["train"]
    assert [(finding.number, finding.total) for finding in split.findings] == [
        (2, 4),
        (1, 2),
    ]
    options = {"drop_doubles": True}
    split = registry.load("tfds/doubled", str(tmp_path), (), options).splits["train"]
    assert split.box_summary.usable.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["0.png", "./0.png", "x/../0.png", ".\\0.png"])
def test_a_file_under_two_ids_is_counted(tmp_path, caplog, name):
    table = coco_table()
    table["images"][2]["file_name"] = name
    write_coco(tmp_path, table)
    (finding,) = load_coco(tmp_path).findings
    assert (finding.number, finding.total) == (1, 3)
    assert "image 2" in caplog.text


def test_a_file_under_two_ids_in_two_normal_forms_is_counted(tmp_path):
    table = coco_table(2)
    for row, name in zip(table["images"], (COMPOSED, DECOMPOSED), strict=True):
        row["file_name"] = f"{name}.png"
    write_coco(tmp_path, table, ())
    write(tmp_path / f"images/{DECOMPOSED}.png", image_bytes())
    assert load_coco(tmp_path).findings[0].number == 1


def test_an_image_that_two_xml_files_have_is_counted(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.xml", xml("dog", filename="image.png"))
    write(tmp_path / "image.png", image_bytes())
    split = registry.load("voc_boxes", str(tmp_path)).splits["train"]
    assert split.findings[0].number == 1


def voc(root, **lists):
    """Images 0 to 3 with boxes and masks, and lists of them."""
    for i in range(4):
        write(root / f"JPEGImages/{i}.jpg", image_bytes(i, "JPEG"))
        write(root / f"Annotations/{i}.xml", xml("dog"))
        write_mask(root / f"SegmentationClass/{i}.png")
    for split, names in lists.items():
        for kind in ("Main", "Segmentation"):
            write(root / f"ImageSets/{kind}/{split}.txt", "\n".join(names))


@pytest.mark.parametrize("name", ["voc", "voc_boxes"])
def test_an_image_that_a_list_names_twice_is_taken_once(tmp_path, caplog, name):
    voc(tmp_path, train="0120", val="3")
    split = registry.load(name, str(tmp_path)).splits["train"]
    assert split.size == 3
    (finding,) = split.findings
    assert (finding.number, finding.total) == (1, 4)
    assert "train.txt: 1 of 4 names occur twice" in caplog.text


@pytest.mark.parametrize("name", ["voc", "voc_boxes"])
def test_an_image_of_two_lists_is_named(tmp_path, caplog, name):
    voc(tmp_path, train="012", val="23", trainval="0123")
    registry.load(name, str(tmp_path))
    (line,) = [text for text in messages(caplog) if "both lists" in text]
    assert "train.txt and val.txt: 1 images are in both lists: 2" in line


def test_images_in_two_shards_are_counted(tmp_path):
    for shard, start in (("train-0", 0), ("train-1", 2)):
        members = [
            (f"{i}.{end}", data)
            for i in range(start, start + 3)
            for end, data in (("png", image_bytes(i)), ("cls", b"0"))
        ]
        write_shard(tmp_path / f"{shard}.tar", members)
    split = registry.load("tar", str(tmp_path)).splits["train"]
    assert split.size == 6
    (finding,) = split.findings
    assert finding.number == 1
    assert "train-1.tar: 2.png" in finding.text


def test_numbers_that_begin_anew_in_each_shard_are_no_doubles(tmp_path):
    for shard in range(2):
        members = [("0.png", image_bytes(shard)), ("0.cls", b"0")]
        write_shard(tmp_path / f"train-{shard}.tar", members)
    assert not registry.load("tar", str(tmp_path)).splits["train"].findings


def test_more_doubles_than_the_share_are_refused(tmp_path):
    table = coco_table(60)
    write_coco(tmp_path, twice(table), range(60))
    fields = {"name": "coco", "path": str(tmp_path), "options": COCO}
    fields |= {"train_split": "train", "eval_split": "train", "canvas": (20, 20)}
    with pytest.raises(ValueError, match=r"data\.max_doubtful: .*120 of 240 objects"):
        open_data(data_options(**fields))
    assert open_data(data_options(**fields, max_doubtful=0.5)).train.size == 60
    fields["options"] = COCO | {"drop_doubles": True}
    assert open_data(data_options(**fields)).train.size == 60


def folders(path, **fields):
    return data_options(name="folder", path=str(path), **fields)


def test_evaluation_images_that_are_in_training_are_named(tmp_path, caplog):
    write_folders(tmp_path)
    shutil.copy(tmp_path / "train/cat/1.png", tmp_path / "test/cat/copy.png")
    open_data(folders(tmp_path))
    (line,) = [text for text in messages(caplog) if "also in training" in text]
    assert "1 of 7 evaluation images" in line
    assert "test/cat/copy.png" in line


def test_of_separate_splits_nothing_is_said(tmp_path, caplog):
    """Names and sizes of the files are the same, as numbers and formats make them."""
    for i, split in enumerate(("train", "test")):
        for k in range(4):
            data = image_bytes(10 * i + k, "BMP")
            write(tmp_path / f"{split}/cat/{k}.bmp", data)
    open_data(folders(tmp_path))
    assert not messages(caplog)


@pytest.mark.parametrize(
    ("shared", "size", "most", "refused"),
    [
        *((2, 100, 0.01, True), (1, 100, 0.01, False), (99, 99, 0.01, False)),
        *((50, 100, 0.5, False), (50, 100, 0.49, True), (100, 100, 0.01, True)),
    ],
)
def test_a_larger_share_of_training_images_is_refused(
    tmp_path, shared, size, most, refused
):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 6, 6), np.uint8)
    test = image[200 - shared : 200 - shared + size]
    file = tmp_path / "a.npz"
    label = np.zeros(300, int)
    np.savez(file, **{"train/image": image[:200], "train/label": label[:200],
                      "test/image": test, "test/label": label[:size]})  # fmt: skip
    options = data_options(name="npz", path=str(file), max_doubtful=most)
    if refused:
        with pytest.raises(ValueError, match=rf"max_doubtful: .*{shared} of {size}"):
            open_data(options)
    else:
        assert open_data(options).evaluation.size == size


def test_blank_images_are_no_leak(tmp_path):
    image = np.zeros((200, 6, 6), np.uint8)
    file = tmp_path / "a.npz"
    label = np.zeros(200, int)
    np.savez(file, **{"train/image": image, "train/label": label,
                      "test/image": image, "test/label": label})  # fmt: skip
    assert open_data(data_options(name="npz", path=str(file))).train.size == 200


def test_evaluation_on_the_training_split_is_not_refused(tmp_path):
    write_folders(tmp_path, ("train",), count=60)
    assert open_data(folders(tmp_path, eval_split="train")).train.size == 120


def test_a_held_out_part_of_a_set_with_doubles_is_noticed(tmp_path, caplog):
    write_folders(tmp_path, ("train",), count=6)
    for i in range(6):
        shutil.copy(tmp_path / f"train/cat/{i}.png", tmp_path / f"train/dog/x{i}.png")
    open_data(folders(tmp_path, eval_split="holdout", holdout=9))
    assert "also in training" in caplog.text


def test_of_large_sets_files_of_one_name_are_compared(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("diffkd_jax.data.leaks.MAX_FILES", 10)
    write_folders(tmp_path, count=20)
    for name in ("3.png", "7.png"):
        shutil.copy(tmp_path / f"train/cat/{name}", tmp_path / f"test/dog/{name}")
    open_data(folders(tmp_path))
    assert "2 of 40 evaluation images" in caplog.text
    caplog.clear()
    monkeypatch.setattr("diffkd_jax.data.leaks.MAX_EXAMINED", 20)
    for i in range(20):
        for name in ("cat", "dog"):
            file = f"{name}/{i}.png"
            shutil.copy(tmp_path / "train" / file, tmp_path / "test" / file)
    open_data(folders(tmp_path, max_doubtful=1.0))
    assert "about 40 of 40 evaluation images" in caplog.text


@pytest.mark.parametrize("name", ["tar", "masks", "coco", "voc"])
def test_each_reader_of_files_is_looked_at(tmp_path, caplog, name):
    fields, options = {}, {}
    if name == "tar":
        for split in ("train", "test"):
            members = [("0.png", image_bytes()), ("0.cls", b"0")]
            write_shard(tmp_path / f"{split}-0.tar", members)
    elif name == "masks":
        options = {"classes": 2}
        for split in ("train", "test"):
            write(tmp_path / f"images/{split}/{split}.png", image_bytes())
            write_mask(tmp_path / f"masks/{split}/{split}.png")
    elif name == "coco":
        options, fields = COCO, {"canvas": (20, 20)}
        for split in ("train", "test"):
            write_coco(tmp_path, coco_table(), split=split)
    else:
        voc(tmp_path, train="01", test="12")
        fields = {"canvas": (20, 20)}
    fields |= {"name": name, "path": str(tmp_path), "options": options}
    open_data(data_options(**fields))
    assert "also in training" in caplog.text


def test_large_shards_are_compared_by_their_names(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("diffkd_jax.data.leaks.MAX_FILES", 3)
    for split, start in (("train", 0), ("test", 2)):
        members = [
            (f"{split}/{i}.{end}", data)
            for i in range(start, start + 4)
            for end, data in (("png", image_bytes(i)), ("cls", b"0"))
        ]
        write_shard(tmp_path / f"{split}-0.tar", members)
    open_data(data_options(name="tar", path=str(tmp_path)))
    assert "2 of 4 evaluation images are also in training" in caplog.text
    assert "test-0.tar: test/2.png" in caplog.text


def test_the_share_may_change_between_two_calls():
    assert Free in DataConfig.model_fields["max_doubtful"].metadata
