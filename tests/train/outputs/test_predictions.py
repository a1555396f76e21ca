"""A trained student's predictions are written to files."""

import csv

import numpy as np
import pytest
from PIL import Image

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data import open_data
from diffkd_jax.data.sources.cityscapes import IDS
from diffkd_jax.tasks.segmentation.task import segmentation
from diffkd_jax.train.outputs.predictions import shorten_names
from tests.helpers.configs import tiny_config


@pytest.fixture
def predicted(finished, tmp_path):
    """Returns a workdir with a copy of the finished student and its predictions."""
    name = "model.safetensors"
    (tmp_path / name).write_bytes((finished / name).read_bytes())
    main.run(tiny_config(mode="predict"), str(tmp_path))
    return tmp_path


def test_predictions_are_those_of_the_evaluation(predicted, finished, capsys):
    with (predicted / "predictions/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    config = tiny_config(mode="evaluate")
    main.run(config, str(finished))
    data = open_data(resolve(config).data)
    assert len(rows) == data.evaluation.size
    first = data.evaluation.name(0)
    assert rows[0]["name"] == first.replace(" ", "_")
    label = data.evaluation.fetch(np.arange(len(rows)))["target"]["label"]
    names = data.meta["class_names"]
    hits = np.mean([names[k] == r["class"] for k, r in zip(label, rows, strict=True)])
    assert f"top1 {hits:.4f}" in capsys.readouterr().out


def test_predictions_are_not_overwritten(predicted):
    before = (predicted / "predictions/predictions.csv").read_bytes()
    with pytest.raises(ValueError, match=r"predictions: found .*predictions, expected"):
        main.run(tiny_config(mode="predict"), str(predicted))
    assert (predicted / "predictions/predictions.csv").read_bytes() == before
    other = predicted / "new/second"
    main.run(tiny_config(mode="predict", predictions=str(other)), str(predicted))
    assert (other / "predictions.csv").read_bytes() == before
    names = {"model.safetensors", "predictions", "new"}
    assert {p.name for p in predicted.iterdir()} == names


def test_masks_are_written_without_padding_and_with_the_ids_of_the_data(tmp_path):
    meta = {"num_classes": 19, "palette": [[1, 2, 3]], "ids": list(IDS)}
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)
    actual = [("city/a", {"label": label}, {"size": np.array([2, 3])})]
    for write_ids in (False, True):
        folder = tmp_path / str(write_ids)
        segmentation(meta, write_ids=write_ids).write(folder, iter(actual), meta)
        with Image.open(folder / "city/a.png") as picture:
            written = np.asarray(picture)
            assert picture.mode == ("L" if write_ids else "P")
        expected = label[:2, :3]
        np.testing.assert_array_equal(
            written, np.array(IDS)[expected] if write_ids else expected
        )


def test_ids_of_data_that_have_none_are_refused():
    with pytest.raises(ValueError, match="write_ids: found true for data without ids"):
        segmentation({"num_classes": 3}, write_ids=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/d/a/1.png", "/d/a/1.jpg"], ["1.png", "1.jpg"]),
        (["/d/../a b.png", "/d/../c.png"], ["a_b", "c"]),
        (["/x/é.png", "/x/ê.png"], ["é", "ê"]),
        (["a:1", "a?1"], ["0_a_1", "1_a_1"]),
        (["/d/only.png"], ["only"]),
        (["/d/a..b.png", "/d/..png"], ["a_b", "_png"]),
    ],
)
def test_names_of_files_are_short_and_distinct(names, expected):
    assert shorten_names(names) == expected
    assert len(set(expected)) == len(names)
