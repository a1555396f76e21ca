"""Batches of one group of pictures each, in training and evaluation."""

import numpy as np
import pytest

from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.pipeline import batches as pipeline
from diffkd_jax.data.pipeline.groups import eval_rows, train_rows
from diffkd_jax.data.split import Split, subset
from tests.data.sources.test_coco import write_coco
from tests.helpers.data_options import data_options
from tests.helpers.transforms import eval_transform, train_transform

GROUP = (np.arange(37) % 5 == 0).astype(int)  # 8 of 37


@pytest.mark.parametrize("size", [1, 4, 9, 37])
def test_each_training_batch_is_of_one_group(size):
    for epoch in range(5):
        rows = train_rows(GROUP, size, 0, epoch)
        assert rows.shape == (37 // size, size)
        assert (np.ptp(GROUP[rows], axis=1) == 0).all()
    again = train_rows(GROUP, size, 0, 4)
    np.testing.assert_array_equal(rows, again)
    if size < 37:
        assert (train_rows(GROUP, size, 1, 4) != rows).any()
        assert (train_rows(GROUP, size, 0, 3) != rows).any()


def test_all_examples_are_seen_equally_often_in_the_long_run():
    epochs, size = 3000, 16  # of which the small group never fills one
    seen = np.zeros(37)
    for epoch in range(epochs):
        np.add.at(seen, train_rows(GROUP, size, 0, epoch).ravel(), 1)
    expected = epochs * 2 * size / 37
    assert abs(seen[GROUP == 0].mean() / expected - 1) < 0.02
    assert abs(seen[GROUP == 1].mean() / expected - 1) < 0.06
    assert (abs(seen / expected - 1) < 0.15).all()


def test_without_repetition_where_a_group_fills_its_batches():
    for epoch in range(20):
        rows = train_rows(GROUP, 4, 0, epoch)
        for number, count in ((0, 29), (1, 8)):
            own = rows[GROUP[rows] == number]
            assert len(np.unique(own)) == min(len(own), count)


@pytest.mark.parametrize("size", [1, 4, 9, 64])
def test_every_example_is_evaluated_once(size):
    rows = eval_rows(GROUP, size)
    assert sorted(rows[rows < 37]) == list(range(37))
    assert (rows[:, 0] < 37).all()
    for batch in rows:
        assert np.ptp(GROUP[batch[batch < 37]]) == 0


def sized(group):
    """Pictures whose shape says their group; every sixth does not decode."""

    def fetch(rows):
        return {"image": np.asarray(rows), "target": {"label": np.asarray(rows) % 3}}

    def transform(batch, draws=None):
        rows = batch["image"]
        (number,) = set(group[rows])
        shape = (len(rows), 2 + number, 3 - number, 1)
        failed = rows % 6 == 1
        return (
            batch
            | {"image": np.zeros(shape) + rows[:, None, None, None]}
            | {"failed": failed}
        )

    return Split(len(group), fetch, group=group), transform


@pytest.mark.parametrize("processes", [1, 3])
def test_evaluation_in_any_number_of_processes(processes):
    split, transform = sized(GROUP)
    seen = []
    for process in range(processes):
        batches = pipeline.eval_batches(
            split,
            transform,
            batch_size=6,
            process_index=process,
            process_count=processes,
        )
        for batch in batches:
            assert len(batch["mask"]) == 6 // processes
            real = batch["mask"] > 0
            seen += batch["index"][real].tolist()
            np.testing.assert_array_equal(
                batch["image"][real][:, 0, 0, 0], batch["index"][real]
            )
    assert sorted(seen) == [row for row in range(37) if row % 6 != 1]


def test_training_in_several_processes_and_from_any_step_on():
    split, transform = sized(GROUP)
    options = {"batch_size": 6, "seed": 3, "num_epochs": 2, "num_threads": 2}
    whole = list(pipeline.train_batches(split, transform, **options))
    assert len(whole) == 2 * 6
    later = list(pipeline.train_batches(split, transform, start=7, **options))
    for a, b in zip(whole[7:], later, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
    parts = [
        list(
            pipeline.train_batches(
                split, transform, process_index=i, process_count=2, **options
            )
        )
        for i in range(2)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        rows = np.concatenate([half["index"] for half in halves])
        kept = batch["index"] % 6 != 1
        assert kept.all()
        assert np.ptp(GROUP[rows]) == 0
        assert np.ptp(GROUP[batch["index"]]) == 0


def test_parts_of_a_split_keep_their_groups():
    split, _ = sized(GROUP)
    rows = np.array([5, 1, 10])
    assert subset(split, rows).group.tolist() == GROUP[rows].tolist()


def test_a_run_on_two_canvases(tmp_path):
    root = write_coco(tmp_path, pictures=14)
    options = data_options(
        name="coco",
        path=str(root),
        eval_split="val",
        augment="resize_flip",
        train_size=(30, 42),
        canvas=(32, 44),
        two_canvases=True,
        resize=30,
        resize_longest=42,
        flip=True,
    )
    data = open_data(options)
    assert data.train.size == 10
    shapes = set()
    for batch in pipeline.train_batches(
        data.train, train_transform(options), batch_size=2, seed=0,
        num_epochs=3,
    ):  # fmt: skip
        shapes.add(batch["image"].shape[1:3])
        height, width = batch["image"].shape[1:3]
        assert ((batch["size"][:, 0] > batch["size"][:, 1]) == (height > width)).all()
    assert shapes == {(30, 42), (42, 30)}
    found = list(
        pipeline.eval_batches(data.evaluation, eval_transform(options), batch_size=4)
    )
    assert {batch["image"].shape[1:3] for batch in found} == {(32, 44), (44, 32)}
    rows = [row for b in found for row in b["index"][b["mask"] > 0]]
    assert sorted(rows) == list(range(14))


def test_fields_are_checked_against_all_pictures(tmp_path, caplog):
    root = write_coco(tmp_path)
    fields = {"name": "coco", "path": str(root), "eval_split": "val"}
    resized = {"augment": "resize_flip", "resize": 30, "train_size": (40, 40)}
    with caplog.at_level("INFO"):
        open_data(data_options(**fields, **resized, canvas=(40, 44), max_objects=2))
    assert "coco val: 32 % of the images is padding" in caplog.text
    assert "coco train: 25 % of the images is padding" in caplog.text
    assert "1 images have more than 2 objects, up to 3; training keeps" in caplog.text
    for changed, message in (
        (
            {"canvas": (40, 30)},
            r"data.canvas: found \(40, 30\), expected at least \(30,",
        ),
        ({"canvas": (40, 40), "resize": 31}, r"data.train_size: found \(40, 40\), exp"),
        ({}, r"data.canvas: found \(\) for images of sizes \[\(30, 40\), \(40, 30"),
    ):
        with pytest.raises(ValueError, match=message):
            open_data(data_options(**fields, **resized | changed))
    with pytest.raises(ValueError, match="two_canvases: found True for images"):
        open_data(
            data_options(name="scene_boxes", canvas=(128, 128), two_canvases=True)
        )
