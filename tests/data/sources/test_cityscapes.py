"""Cityscapes in a tiny tree of the right layout, on disk and as array records."""

import io
import json
import shutil
import warnings

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.images.mask_rules import WrongMask
from diffkd_jax.data.images.masks import EncodedMask, read_mask
from diffkd_jax.data.sources import registry
from diffkd_jax.data.sources.cityscapes import CLASSES, IDS, PALETTE, choose_rule
from diffkd_jax.data.transforms import masks as masks_of_views
from tests.data.images.test_masks import ODD, right
from tests.helpers.data_options import data_options

LABEL_IDS = "city_000000_000019_gtFine_labelIds.png"
TRAIN_IDS = "city_000000_000019_gtFine_labelTrainIds.png"


def write(root, split, city, number, ids="labelIds"):
    """A picture, and the golden's mask as ``ids`` or none."""
    stem = f"{city}_{number:06}_000019"
    picture = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    mask = root / "gtFine" / split / city / f"{stem}_gtFine_{ids}.png"
    for file in (picture, mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", right(LABEL_IDS).shape[::-1]).save(picture)
    if ids:
        shutil.copy(ODD / f"city_000000_000019_gtFine_{ids}.png", mask)
        (mask.parent / f"{stem}_gtFine_polygons.json").write_text("{}")
        (mask.parent / f"{stem}_gtFine_color.png").write_bytes(b"")


@pytest.fixture
def root(tmp_path):
    for number in range(2):
        write(tmp_path, "train", "aachen", number)
    write(tmp_path, "train", "ulm", 0, "labelTrainIds")
    write(tmp_path, "val", "bonn", 0)
    write(tmp_path, "test", "berlin", 0, "")
    return tmp_path


def classes_of(split):
    rows = np.arange(split.size)
    return [read_mask(mask) for mask in split.fetch(rows)["target"]["label"]]


@pytest.mark.parametrize("name", [LABEL_IDS, TRAIN_IDS])
def test_the_file_s_name_decides_what_its_values_are(name):
    mask = EncodedMask((ODD / name).read_bytes(), name, choose_rule(name))
    np.testing.assert_array_equal(read_mask(mask), right(name))


def test_ids_become_the_same_classes_in_every_split(root, caplog):
    data = registry.load("cityscapes", str(root))
    assert {k: split.size for k, split in data.splits.items()} == {"train": 3, "val": 1}
    for split in data.splits.values():
        for classes in classes_of(split):
            np.testing.assert_array_equal(classes, right(LABEL_IDS))
    assert "test: 1 images without a mask" in caplog.text
    assert data.class_names[:2] == ("road", "sidewalk")
    assert data.meta["palette"][13] == [0, 0, 142]  # cars are blue
    assert len(CLASSES) == len(PALETTE) == len(IDS) == 19
    json.dumps(dict(data.meta))


def test_it_opens_as_the_data_of_a_run(root):
    data = open_data(
        data_options(
            name="cityscapes", path=str(root), eval_split="val", num_classes=19,
            augment="scale_crop_flip", train_size=(2, 4),
        )
    )  # fmt: skip
    assert data.train_shape == (2, 4, 3)
    assert data.eval_shape == (*right(LABEL_IDS).shape, 3)
    assert data.meta["ignore"] == 255
    assert data.meta["class_names"][-1] == "bicycle"


def test_pictures_and_masks_without_each_other_are_named(root, caplog):
    (root / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png").unlink()
    (root / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png").unlink()
    data = registry.load("cityscapes", str(root))
    assert {k: split.size for k, split in data.splits.items()} == {"train": 2}
    assert "masks without an image, left out: aachen/aachen_000000_0000" in caplog.text
    assert "images without a mask, left out: bonn/bonn_000000_000019_" in caplog.text


def test_what_is_no_cityscapes_is_named(tmp_path, root):
    with pytest.raises(FileNotFoundError, match=r"data.path: found nothing"):
        registry.load("cityscapes", str(tmp_path / "nowhere"))
    shutil.rmtree(root / "gtFine/train")
    shutil.rmtree(root / "gtFine/val")
    with pytest.raises(ValueError, match="found no image with a mask, expected such"):
        registry.load("cityscapes", str(root))
    shutil.rmtree(root / "gtFine")
    with pytest.raises(FileNotFoundError, match="found no folder gtFine"):
        registry.load("cityscapes", str(root))
    with pytest.raises(ValueError, match=r"data.options: found \['size'\], expected"):
        registry.load("cityscapes", str(root), options={"size": 3})


def test_an_unknown_id_is_named(root):
    file = root / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((2, 2), 77, np.uint8)).save(file)
    split = registry.load("cityscapes", str(root)).splits["val"]
    with pytest.raises(WrongMask, match=f"{file.name}: found the value 77, expected 0"):
        classes_of(split)


class Cityscapes(tfds.core.GeneratorBasedBuilder):
    """A prepared set with the features of TFDS' own."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        shape = right(LABEL_IDS).shape
        features = tfds.features.FeaturesDict(
            {
                "image_id": tfds.features.Text(),
                "image_left": tfds.features.Image(shape=(*shape, 3)),
                "segmentation_label": tfds.features.Image(shape=(*shape, 1)),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        stream = io.BytesIO()
        Image.new("RGB", right(LABEL_IDS).shape[::-1]).save(stream, "PNG")
        yield (
            "one",
            {
                "image_id": "aachen_0",
                "image_left": io.BytesIO(stream.getvalue()),
                "segmentation_label": str(ODD / LABEL_IDS),
            },
        )


def test_array_records(tmp_path):
    builder = Cityscapes(data_dir=tmp_path, file_format="array_record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder.download_and_prepare(file_format="array_record")
    data = registry.load("tfds/cityscapes", str(tmp_path))
    split = data.splits["train"]
    batch = split.fetch(np.array([0]))
    pixels, classes = masks_of_views.decode_pair(
        batch["image"][0], batch["target"]["label"][0]
    )
    assert pixels.shape[:2] == classes.shape
    np.testing.assert_array_equal(classes, right(LABEL_IDS))
    assert "aachen_0" in split.name(0)
    assert data.class_names == CLASSES
