"""Files as other programs write them: shards, VOC folders, names of classes."""

import gzip
import hashlib
import pickle
import tarfile

import numpy as np
import pytest

from diffkd_jax.data import class_names
from diffkd_jax.data.sources import registry
from diffkd_jax.tasks.segmentation.plots import colours as colours_of
from tests.helpers.data_on_disk import (
    COCO,
    POINTER,
    coco_table,
    image_bytes,
    write,
    write_coco,
    write_mask,
    write_shard,
    xml,
)


def examples(*keys, image="png", label="cls"):
    """Members of a shard: an image and its label for each key."""
    files = ((image, image_bytes()), (label, b"1"))
    return [(f"{key}.{end}", data) for key in keys for end, data in files]


def load_shard(path, members):
    write_shard(path / "train-0.tar", members)
    return registry.load("tar", str(path)).splits["train"]


@pytest.mark.parametrize(
    ("members", "first", "second"),
    [
        (examples("a", "b", "a"), "a.png", "a.png"),
        (examples("x/a", "x/a"), "x/a.png", "x/a.png"),
        ([*examples("a"), ("a.JPG", image_bytes())], "a.png", "a.JPG"),
        ([*examples("a"), ("a.cls", b"0")], "a.cls", "a.cls"),
        ([*examples("a"), ("a.CLS", b"1")], "a.cls", "a.CLS"),
        ([*examples("a"), ("a.json", b'{"label": 0}')], "a.cls", "a.json"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, members, first, second):
    message = rf"train-0\.tar: .*found '{first}' and '{second}'"
    with pytest.raises(ValueError, match=message):
        load_shard(tmp_path, members)


def test_a_label_in_both_forms_may_agree(tmp_path):
    members = [*examples("a"), ("a.json", b'{"label": 1.0}')]
    assert load_shard(tmp_path, members).label.tolist() == [1]


@pytest.mark.parametrize(
    "name", ["._a.png", "x/._a.png", "__MACOSX/x/a.png", ".x/a.png", "x/@eaDir/a.png"]
)
def test_hidden_members_are_left_out(tmp_path, name):
    split = load_shard(tmp_path, [(name, b"x"), *examples("./x/a")])
    assert split.size == 1
    assert "train-0.tar: ./x/a.png" in split.name(0)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, b"0", None])
def test_labels_without_an_image_are_named(tmp_path, kind, caplog):
    """Links are not read, nor are images of another ending, or of none."""
    shard = tmp_path / "train-0.tar"
    write_shard(shard, [*examples("a"), ("b.cls", b"1")])
    if kind:
        with tarfile.open(shard, "a") as archive:
            member = tarfile.TarInfo("b.heic" if kind == b"0" else "b.png")
            member.type, member.linkname = kind, "a.png"
            archive.addfile(member)
    assert registry.load("tar", str(tmp_path)).splits["train"].size == 1
    assert "train-0.tar: 1 labels without an image, left out: b.cls" in caplog.text


def test_hidden_shards_are_left_out(tmp_path):
    write(tmp_path / "._train-0.tar", b"x")
    assert load_shard(tmp_path, examples("a")).size == 1


@pytest.mark.parametrize(("image", "label"), [("JPG", "CLS"), ("Png", "Json")])
def test_endings_of_members_are_taken_in_any_case(tmp_path, image, label):
    members = examples("0001", "0002", image=image, label=label)
    members = [(n, b'{"label": 1}' if n.endswith("Json") else d) for n, d in members]
    assert load_shard(tmp_path, members).label.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.cls", "3\r\n".encode("utf-16")),
        ("a.cls", "\ufeff3".encode()),
        ("a.cls", b"3.0"),
        ("a.json", b'{"label": 3.0}'),
        ("a.json", '{"label": "3.0"}'.encode("utf-8-sig")),
    ],
)
def test_labels_are_numbers_in_any_form(tmp_path, name, content):
    members = [("a.png", image_bytes()), (name, content)]
    assert load_shard(tmp_path, members).label.tolist() == [3]


@pytest.mark.parametrize("content", [b"", b"cat", b"\xff\xfe\xff", b"0.5", POINTER])
@pytest.mark.parametrize("name", ["a.cls", "a.json"])
def test_a_label_that_is_none_is_named(tmp_path, name, content):
    members = [("a.png", image_bytes()), (name, content)]
    with pytest.raises(ValueError, match=rf"train-0\.tar: .*'{name}'"):
        load_shard(tmp_path, members)


def voc(root, files, filename=""):
    """Two images by their files, with boxes and masks."""
    for name in files:
        stem = name.rpartition(".")[0]
        form = "PNG" if name.lower().endswith("png") else "JPEG"
        write(root / f"JPEGImages/{name}", image_bytes(form=form))
        write(root / f"Annotations/{stem}.xml", xml("dog", filename=filename or name))
        write_mask(root / f"SegmentationClass/{stem}.png")
    for kind in ("Main", "Segmentation"):
        stems = "\n".join(name.rpartition(".")[0] for name in files)
        write(root / f"ImageSets/{kind}/train.txt", stems)


def first_image(name, root):
    batch = registry.load(name, str(root)).splits["train"].fetch(np.array([0]))
    assert batch["image"][0].data
    return batch["image"][0].name


@pytest.mark.parametrize("name", ["voc", "voc_boxes"])
@pytest.mark.parametrize("file", ["a.png", "a.PNG", "a.JPG", "a.jpeg", "a.jpg"])
def test_voc_takes_any_ending(tmp_path, name, file):
    voc(tmp_path, [file, "b.jpg"])
    assert first_image(name, tmp_path).endswith(f"JPEGImages/{file}")


def test_own_masks_in_the_layout_of_voc_have_no_names_of_voc(tmp_path):
    voc(tmp_path, ["a.png"])
    assert registry.load("voc", str(tmp_path)).class_names == tuple(map(str, range(21)))
    write(tmp_path / "classes.txt", "sky\ntree\n")
    data = registry.load("voc", str(tmp_path))
    assert data.class_names == ("sky", "tree")
    colours = colours_of(data.meta.get("palette") or (), len(data.class_names))
    assert colours[[1, 2]].tolist() == [[128, 0, 0], [255, 255, 255]]  # two classes
    data = registry.load("voc", str(tmp_path), (), {"classes": "a, b, c"})
    assert data.class_names == ("a", "b", "c")


@pytest.mark.parametrize("name", ["voc", "voc_boxes"])
def test_what_a_mac_leaves_beside_lists_is_no_list(tmp_path, name):
    voc(tmp_path, ["a.png"])
    for kind in ("Main", "Segmentation"):
        folder = tmp_path / f"ImageSets/{kind}"
        write(folder / "._train.txt", bytes(range(200)))
        (folder / "train.txt").rename(folder / "train.TXT")
    assert list(registry.load(name, str(tmp_path)).splits) == ["train"]


def test_what_a_mac_leaves_beside_a_json_is_no_split(tmp_path):
    write_coco(tmp_path, coco_table())
    write(tmp_path / "._train.json", bytes(range(200)))
    data = registry.load("coco", str(tmp_path), (), COCO)
    assert list(data.splits) == ["train"]


@pytest.mark.parametrize("name", ["voc", "voc_boxes"])
def test_lists_may_hold_names_with_endings(tmp_path, name):
    voc(tmp_path, ["a.png"])
    for kind in ("Main", "Segmentation"):
        write(tmp_path / f"ImageSets/{kind}/train.txt", "a.png\r\n")
    assert first_image(name, tmp_path).endswith("JPEGImages/a.png")


@pytest.mark.parametrize(
    ("mark", "ignored"), [("1.0", 1), ("1.00", 1), ("0.0", 0), ("01", 1), ("True", 1)]
)
def test_marks_in_xml_are_numbers_in_any_form(tmp_path, mark, ignored):
    text = xml("dog").replace("<bndbox>", f"<difficult>{mark}</difficult><bndbox>")
    write(tmp_path / "a.xml", text)
    write(tmp_path / "a.png", image_bytes())
    split = registry.load("voc_boxes", str(tmp_path)).splits["train"]
    assert split.box_summary.ignored.tolist() == [ignored]


def test_a_mask_of_voc_has_an_ending_in_any_case(tmp_path):
    voc(tmp_path, ["a.png"])
    masks = tmp_path / "SegmentationClass"
    (masks / "a.png").rename(masks / "a.PNG")
    assert first_image("voc", tmp_path)


def test_an_image_of_voc_may_have_the_name_in_the_xml_alone(tmp_path):
    voc(tmp_path, ["a.png"], filename="other.tif")
    (tmp_path / "JPEGImages/a.png").rename(tmp_path / "JPEGImages/other.tif")
    assert first_image("voc_boxes", tmp_path).endswith("other.tif")


@pytest.mark.parametrize("layout", ["JPEGImages", "."])
def test_of_two_endings_the_one_in_the_xml_counts(tmp_path, layout):
    if layout == ".":
        write(tmp_path / "a.xml", xml("dog", filename="a.png"))
    else:
        voc(tmp_path, ["a.png"])
        write(tmp_path / "classes.txt", "dog")
    for end in ("jpg", "png"):
        write(tmp_path / layout / f"a.{end}", image_bytes())
    assert first_image("voc_boxes", tmp_path).endswith("a.png")


def test_images_beside_xml_have_endings_in_any_case(tmp_path):
    write(tmp_path / "a.XML", xml("dog"))
    write(tmp_path / "a.JPG", image_bytes())
    assert first_image("voc_boxes", tmp_path).endswith("a.JPG")


def test_an_xml_that_is_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "a.xml").symlink_to("/nowhere/a.xml")
    with pytest.raises(ValueError, match=r"a\.xml: found a link to '/nowhere/a\.xml'"):
        registry.load("voc_boxes", str(tmp_path))


def test_cityscapes_takes_any_ending(tmp_path):
    write(tmp_path / "leftImg8bit/train/x/x_0_leftImg8bit.jpg", image_bytes())
    write_mask(tmp_path / "gtFine/train/x/x_0_gtFine_labelTrainIds.PNG")
    assert first_image("cityscapes", tmp_path).endswith("x_0_leftImg8bit.jpg")


def write_idx(root, label):
    image = np.zeros((len(label), 28, 28), np.uint8)
    for prefix in ("train", "t10k"):
        for kind, array in (("images", image), ("labels", label)):
            header = (
                bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            )
            name = f"{prefix}-{kind}-idx{array.ndim}-ubyte.gz"
            write(root / name, gzip.compress(header + array.tobytes()))


def test_other_labels_than_those_of_fashion_mnist_are_numbers(tmp_path):
    write_idx(tmp_path, np.arange(20, dtype=np.uint8) % 10)
    data = registry.load("fashion_mnist", str(tmp_path))
    assert data.class_names == tuple("0123456789")


def test_labels_that_are_known_have_names(tmp_path, monkeypatch):
    label = np.arange(20, dtype=np.uint8) % 10
    known = {hashlib.sha256(label.tobytes()).hexdigest(): class_names.FASHION_CLASSES}
    monkeypatch.setattr(class_names, "_OF_LABELS", known)
    write_idx(tmp_path, label)
    data = registry.load("fashion_mnist", str(tmp_path))
    assert data.class_names == class_names.FASHION_CLASSES


def test_names_of_classes_can_be_given(tmp_path):
    """As for letters in the form of MNIST, which count from 1 to 26."""
    write_idx(tmp_path, np.arange(1, 27, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"found label 10 .*expected 0 to 9"):
        registry.load("fashion_mnist", str(tmp_path))
    data = registry.load("fashion_mnist", str(tmp_path), (), {"classes": 27})
    assert data.class_names[26] == "26"
    names = tuple("?abcdefghijklmnopqrstuvwxyz")
    data = registry.load("fashion_mnist", str(tmp_path), (), {"classes": names})
    assert data.class_names == names


def write_batches(root, key, names):
    for name in names:
        data = np.zeros((20, 3072), np.uint8)
        batch = {b"data": data, key: [i % 10 for i in range(20)]}
        write(root / name, pickle.dumps(batch, protocol=2))


CIFAR = {
    "cifar10": (b"labels", b"label_names", "batches.meta", 10),
    "cifar100": (b"fine_labels", b"fine_label_names", "meta", 100),
}
FILES = {
    "cifar10": [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"],
    "cifar100": ["train", "test"],
}


@pytest.mark.parametrize("name", CIFAR)
def test_names_of_cifar_are_those_in_its_files(tmp_path, name):
    label, key, meta, count = CIFAR[name]
    write_batches(tmp_path, label, FILES[name])
    assert registry.load(name, str(tmp_path)).class_names[1] == "1"
    names = [f"class {k}" for k in range(count)]
    write(tmp_path / meta, pickle.dumps({key: [n.encode() for n in names]}, protocol=2))
    assert registry.load(name, str(tmp_path)).class_names == tuple(names)
    write(tmp_path / meta, pickle.dumps({key.decode(): names}))  # by Python 3
    assert registry.load(name, str(tmp_path)).class_names == tuple(names)
    own = tuple(f"own {k}" for k in range(count))
    data = registry.load(name, str(tmp_path), (), {"classes": own})
    assert data.class_names == own
    with pytest.raises(ValueError, match=r"classes: found 2 names, expected"):
        registry.load(name, str(tmp_path), (), {"classes": "a, b"})


@pytest.mark.parametrize("value", [["a"], "text", [1] * 10, {"a": 1}])
def test_names_of_cifar_that_cannot_be_are_refused(tmp_path, value):
    write_batches(tmp_path, b"labels", FILES["cifar10"])
    write(tmp_path / "batches.meta", pickle.dumps({b"label_names": value}, protocol=2))
    with pytest.raises(ValueError, match=r"batches\.meta: no names of classes"):
        registry.load("cifar10", str(tmp_path))


def test_a_pointer_in_place_of_names_is_named(tmp_path):
    write_batches(tmp_path, b"labels", FILES["cifar10"])
    write(tmp_path / "batches.meta", POINTER)
    with pytest.raises(ValueError, match=r"batches\.meta: .*a pointer of Git LFS"):
        registry.load("cifar10", str(tmp_path))


def pointers(root):
    """Files of each data set of one file, all of them pointers."""
    for name in (*FILES["cifar10"], "a.npz", "train-0.tar", "train.json", "a.xml"):
        write(root / name, POINTER)
    for prefix in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            write(root / f"{prefix}-{name}-ubyte", POINTER)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("npz", "a.npz"), ("tar", ""), ("cifar10", ""), ("fashion_mnist", "")),
        *(("coco", ""), ("voc_boxes", "")),
    ],
)
def test_a_pointer_in_place_of_a_data_set_is_named(tmp_path, name, file):
    pointers(tmp_path)
    options = {"annotations": "{split}.json"} if name == "coco" else {}
    with pytest.raises(ValueError, match="a pointer of Git LFS"):
        registry.load(name, str(tmp_path / file), (), options)
