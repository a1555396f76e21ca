"""VOC's xml and TFDS' records with boxes, and what is odd about them."""

import io
import json
import shutil
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffkd_jax.data.formats.voc_xml import read_annotation
from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.sources import registry
from diffkd_jax.data.sources.record_boxes import make_box_split
from tests.data.transforms.test_boxes import EXPECTED, ODD

OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox>{}</object>"
)


def xml(*objects, size=(20, 30)):
    sides = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return (
        f"<annotation>{sides}{''.join(OBJECT.format(*o) for o in objects)}</annotation>"
    )


def odd(tmp_path, name="voc_odd.xml", **options):
    shutil.copy(ODD / name, tmp_path)
    shutil.copy(ODD / "voc_odd.png", tmp_path / name.replace(".xml", ".png"))
    given = {"classes": "dog, cat, person", **options}
    return registry.load("voc_boxes", str(tmp_path), options=given)


def test_the_odd_file(tmp_path, caplog):
    expected = EXPECTED["voc_odd.xml"]["expected"]
    data = odd(tmp_path)
    split = data.splits["train"]
    assert split.box_summary.sides.tolist() == [expected["size_wh"][::-1]]
    target = split.fetch(np.array([0]))["target"]
    valid = target["valid"]
    assert target["boxes"][valid].tolist() == expected["objects_xyxy"]
    names = [data.class_names[k] for k in target["classes"][valid]]
    assert names == expected["labels"]
    assert target["ignored"][valid].astype(int).tolist() == expected["difficult"]
    assert "1 boxes without area, left out: voc_odd.xml object 4, dog" in caplog.text
    assert len(caplog.records) == 1
    (boxes,) = (
        odd(tmp_path, from_zero=True).splits["train"].fetch([0])["target"]["boxes"]
    )
    assert boxes[0].tolist() == [11, 6, 20, 15]
    objects = odd(tmp_path, crowd_objects=True).splits["train"].box_summary
    assert (objects.usable.tolist(), objects.ignored.tolist()) == ([4], [0])


def test_an_unknown_class_is_refused(tmp_path):
    name = "voc_unknown_class.xml"
    with pytest.raises(ValueError, match=name) as error:
        odd(tmp_path, name)
    for word in EXPECTED[name]["expected"]["says"]:
        assert word in str(error.value)


def test_areas_are_those_of_what_is_inside(tmp_path, caplog):
    picture(tmp_path / "1.png")
    (tmp_path / "1.xml").write_text(xml(("dog", 11, 11, 90, 90, "")))
    split = registry.load("voc_boxes", str(tmp_path)).splits["train"]
    assert split.fetch(np.array([0]))["target"]["area"].tolist() == [[20 * 10]]
    assert len(caplog.records) == 1  # of the box


def picture(file, size=(20, 30)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (9, 9, 9)).save(file)


def test_the_layout_of_voc(tmp_path):
    for part in ("Annotations", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    for i in range(3):
        text = xml(*[("dog", 2, 3, 9, 9, "")] * i, ("cat", 1, 1, 30, 20, ""))
        (tmp_path / f"Annotations/2007_{i}.xml").write_text(text)
        picture(tmp_path / f"JPEGImages/2007_{i}.jpg")
    (tmp_path / "ImageSets/Main/train.txt").write_text("2007_0\n2007_2\n")
    (tmp_path / "ImageSets/Main/val.txt").write_text("2007_1\n")
    (tmp_path / "ImageSets/Main/dog_train.txt").write_text("2007_0 -1\n2007_2  1\n")
    data = registry.load("voc_boxes", str(tmp_path))
    assert list(data.splits) == ["train", "val"]
    assert len(data.class_names) == 20
    batch = data.splits["train"].fetch(np.array([1]))
    assert batch["target"]["boxes"][0].tolist() == [[1, 2, 9, 9]] * 2 + [[0, 0, 30, 20]]
    assert [data.class_names[k] for k in batch["target"]["classes"][0]] == [
        *("dog", "dog", "cat")
    ]
    assert decode_image(batch["image"][0]).shape == (20, 30, 3)
    assert data.splits["train"].box_summary.ids.tolist() == [b'"2007_0"', b'"2007_2"']
    (tmp_path / "JPEGImages/2007_2.jpg").unlink()
    with pytest.raises(ValueError, match=r"no image for 1 of 2 xml files: .*2007_2"):
        registry.load("voc_boxes", str(tmp_path))
    data = registry.load("voc_boxes", str(tmp_path), options={"skip_missing": True})
    assert data.splits["train"].size == 1


def test_folders_of_xml_beside_pictures(tmp_path):
    for split, names in (("train", "ab"), ("val", "c")):
        for name in names:
            picture(tmp_path / split / f"{name}.png")
            text = xml((f"class {name}", 1, 1, 9, 9, ""))
            (tmp_path / split / f"{name}.xml").write_text(text)
    data = registry.load("voc_boxes", str(tmp_path))
    assert data.class_names == ("class a", "class b", "class c")
    only = registry.load("voc_boxes", str(tmp_path), ("val",))
    assert list(only.splits) == ["val"]
    assert only.class_names == data.class_names
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="no ImageSets/Main"):
        registry.load("voc_boxes", str(empty))


def test_files_without_an_object_are_named_as_such(tmp_path):
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(xml())
    with pytest.raises(ValueError, match="found no object in 2 xml files, expected so"):
        registry.load("voc_boxes", str(tmp_path))
    data = registry.load("voc_boxes", str(tmp_path), options={"classes": "dog"})
    assert not data.splits["train"].box_summary.usable.any()


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><annotation><object>'
    "<name>&y;</name></object></annotation>"
)
FILE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "not an xml of VOC: .*DOCTYPE"),
        (FILE, "not an xml of VOC: .*DOCTYPE"),
        (BOMB.encode("utf-16"), "not an xml of VOC: .*DOCTYPE"),
        ("<annotation><object>", "not an xml of VOC"),
        ("", "not an xml of VOC"),
        ("<html></html>", "found the root 'html', expected 'annotation'"),
        (xml(("dog", "a", 1, 9, 9, "")), "object 1: found bndbox/xmin 'a', expected a"),
        (xml(("dog", "nan", 1, 9, 9, "")), "object 1: found bndbox/xmin 'nan', expec"),
        (xml(("dog", 1, 1, 9, "1e999", "")), "found bndbox/ymax '1e999', expected"),
        (xml(("dog", 1, -2e9, 9, 9, "")), "found bndbox/ymin '-2000000000.0', expec"),
        (xml((" ", 1, 1, 9, 9, "")), "object 1: found no name, expected the name of a"),
        (
            "<annotation><object><name>a</name></object></annotation>",
            "object 1: found bndbox/xmin none, expected a number",
        ),
        (b"<annotation>" + b" " * 2**23, "found more than 4194304 bytes"),
        (xml(("a", 1, 1, 9, 9, "<name>b</name>")), "object 1: found name twice, exp"),
        (
            xml(("a", 1, 1, 9, 9, ""), ("a", 1, 1, 9, 9, "<bndbox></bndbox>")),
            "object 2: found bndbox twice, expected one",
        ),
        (
            xml(("a", 1, 1, 9, "9</ymax><ymax>9", "")),
            "object 1: found bndbox/ymax twice, expected one",
        ),
        ("<annotation><size/><size/></annotation>", "xml of VOC: found size twice"),
        (
            xml(("a", 1, 1, 9, 9, "<difficult>yes</difficult>")),
            "object 1: found difficult 'yes', expected 0 or 1",
        ),
        (
            xml(("a", 1, 1, 9, 9, "<difficult>2</difficult>")),
            "object 1: found difficult '2', expected 0 or 1",
        ),
    ],
)
def test_files_that_cannot_be_right_are_named(text, message):
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(ValueError, match=message) as error:
        read_annotation(data, "here.xml")
    assert str(error.value).startswith("here.xml: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("1.0", True), (" True ", True), ("0.0", False), ("", False)],
)
def test_difficult_is_0_or_1(text, expected):
    marked = xml(("a", 1, 1, 9, 9, f"<difficult>{text}</difficult>"))
    assert read_annotation(marked.encode(), "here").difficult == [expected]


def test_depth_and_namespaces_are_of_no_account():
    deep = "<a>" * 50_000 + "</a>" * 50_000
    text = f'<v:annotation xmlns:v="x">{deep}<v:filename>f</v:filename></v:annotation>'
    assert read_annotation(text.encode(), "here").filename == "f"


class Boxes(tfds.core.GeneratorBasedBuilder):
    """A prepared set with the features of TFDS' COCO."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "id": np.int64,
                    "is_crowd": np.bool_,
                    "label": tfds.features.ClassLabel(names=["a", "b"]),
                }
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            stream = io.BytesIO()
            Image.new("RGB", (40, 20 + i)).save(stream, "PNG")
            box = tfds.features.BBox(ymin=0.5, xmin=0.25, ymax=1.0, xmax=0.75)
            one = {"area": 30, "bbox": box, "id": 3, "is_crowd": i == 2, "label": 1}
            yield (
                i,
                {
                    "image": io.BytesIO(stream.getvalue()),
                    "image/filename": f"{i}.png",
                    "image/id": 7 + i,
                    "objects": [one] * i,
                },
            )


def test_array_records(tmp_path):
    builder = Boxes(data_dir=tmp_path, file_format="array_record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder.download_and_prepare(file_format="array_record")
    data = registry.load("tfds/boxes", str(tmp_path))
    split = data.splits["train"]
    assert data.class_names == ("a", "b")
    place = [split.name(i).rpartition(": ")[2] for i in range(3)].index("2.png")
    batch = split.fetch(np.array([place]))
    height, width, _ = decode_image(batch["image"][0]).shape
    assert (height, width) == (22, 40)
    target = {k: v[0] for k, v in batch["target"].items()}
    assert target["boxes"].tolist() == [[10, 11, 30, 22]] * 2
    assert target["classes"].tolist() == [1, 1]
    assert target["ignored"].all()
    assert target["area"].tolist() == [30, 30]
    assert sorted(split.box_summary.ids.tolist()) == [b"7", b"8", b"9"]
    assert sorted(split.box_summary.usable.tolist()) == [0, 0, 1]
    assert split.box_summary.sides[place].tolist() == [22, 40]


def one_record(bbox=((0.5, 0.25, 1.0, 0.75),), area=None, **changed):
    stream = io.BytesIO()
    Image.new("RGB", (40, 20)).save(stream, "PNG")
    objects = {"bbox": np.array(bbox, np.float32), "label": np.array([1])}
    objects |= {} if area is None else {"area": np.array(area, np.float32)}
    return {"image": stream.getvalue(), "objects": objects, **changed}


def test_ids_of_records_may_be_text(caplog):
    records = [
        one_record(**{"image/id": own}) for own in (b"abc", "d", np.int64(7), b"\xff")
    ]
    with caplog.at_level("INFO"):
        split = make_box_split(records, 2, "here: train")
    texts = [json.loads(own) for own in split.box_summary.ids]
    assert texts == ["abc", "d", 7, "\\xff"]
    assert split.name(0) == "here: train: abc"
    assert split.name(3) == "here: train: \\xff"
    first, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("here: train: reading all 4 records for their objects")
    assert last.startswith("here: train: read 4 records with 4 objects in ")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "here: train: found no records, expected some"),
        (
            [one_record(), one_record(bbox=[[0, 0, np.inf, 1]])],
            r"here: train: object 1 \(of example 1\): found bbox \[0.0, 0.0, 40.0, i"
            r"nf\] in pixels, expected numbers from -1e",
        ),
        (
            [one_record(bbox=[[0, 0, 1, 1e30]])],
            r"object 0 \(of example 0\): found bbox .* in pixels, expected numbers",
        ),
        (
            [one_record(area=[2e9])],
            r"object 0 \(of example 0\): found area \[2000000000.0\] in pixels, expec",
        ),
        (
            [one_record(area=[np.nan])],
            r"found area \[nan\] in pixels, expected numbers f",
        ),
        (
            [one_record(**{"image/id": 1.5})],
            "here: train: example 0: image/id: found 1.5, expected a whole number or t",
        ),
    ],
)
def test_records_that_cannot_be_right_are_named(records, message):
    with pytest.raises(ValueError, match=message):
        make_box_split(records, 2, "here: train")


@pytest.mark.parametrize("area", [None, [0]])
def test_areas_of_records_are_those_of_what_is_inside(area):
    split = make_box_split([one_record(bbox=[[-1, 0, 0.5, 2]], area=area)], 2, "here")
    assert split.fetch(np.array([0]))["target"]["area"].tolist() == [[10 * 40]]
