"""Evaluation counts every picture once, whatever the batch, processes and devices."""

import numpy as np
import pytest

from diffkd_jax.data.images.encoded import UnreadableImage
from diffkd_jax.data.pipeline import batches
from diffkd_jax.data.split import Split
from diffkd_jax.train.batches import eval_batch_size


def numbers(size):
    """A split whose pictures are their own numbers."""
    return Split(
        size,
        lambda rows: {
            "image": rows[:, None, None, None],
            "target": {"label": rows % 3},
        },
    )


@pytest.mark.parametrize("processes", [1, 3, 24])
@pytest.mark.parametrize("devices", [1, 4])  # of a process
@pytest.mark.parametrize("asked", [1, 100, 10_000])
@pytest.mark.parametrize("size", [1, 100])
def test_every_row_is_one_process_s(processes, devices, asked, size):
    whole = eval_batch_size(asked, size, devices * processes)
    assert whole < max(size, 1) + devices * processes
    parts = [
        list(
            batches.eval_batches(
                numbers(size), lambda batch: batch, batch_size=whole,
                process_index=i, process_count=processes,
            )
        )
        for i in range(processes)
    ]  # fmt: skip
    seen = [
        row
        for part in parts
        for batch in part
        for row in batch["image"][batch["mask"] > 0].ravel()
    ]
    assert sorted(seen) == list(range(size))
    sizes = {len(batch["mask"]) for part in parts for batch in part}
    assert len({len(part) for part in parts}) == len(sizes) == 1
    assert sizes.pop() % devices == 0


@pytest.mark.parametrize("size", [2, 256])
def test_a_batch_that_the_processes_do_not_divide_is_rounded_up(size):
    seen = []
    for i in range(3):
        for batch in batches.eval_batches(
            numbers(1000),
            lambda b: b,
            batch_size=size,
            process_index=i,
            process_count=3,
        ):
            assert len(batch["mask"]) == -(-size // 3)
            seen += batch["image"][batch["mask"] > 0].ravel().tolist()
    assert sorted(seen) == list(range(1000))


def test_no_batch_is_named():
    with pytest.raises(ValueError, match=r"data\.eval_batch_size: found 0, expected"):
        batches.eval_batches(numbers(3), lambda b: b, batch_size=0)


def without_size(batch, draws=None):
    """Pictures below 60 do not decode; where none does, no size is known."""
    failed = batch["image"].ravel() < 60
    shape = (len(failed), 0, 0, 1) if failed.all() else (len(failed), 4, 4, 1)
    image = np.broadcast_to(batch["image"], shape) if shape[1] else np.zeros(shape)
    return batch | {"image": np.array(image), "failed": failed}


def test_batches_of_which_nothing_decodes_have_the_shape_of_the_others():
    found = list(batches.eval_batches(numbers(100), without_size, batch_size=8))
    assert {batch["image"].shape for batch in found} == {(8, 4, 4, 1)}
    seen = [row for b in found for row in b["image"][b["mask"] > 0][:, 0, 0, 0]]
    assert seen == list(range(60, 100))
    assert {row for b in found for row in b["skipped"]} == {-1, *range(60)}


def test_training_batches_of_which_nothing_decodes_are_replaced():
    options = {"batch_size": 4, "seed": 0, "num_epochs": 1, "num_threads": 0}
    for batch in batches.train_batches(numbers(100), without_size, **options):
        assert batch["image"].shape == (4, 4, 4, 1)
        assert (batch["image"] >= 60).all()
        rows = batch["image"][:, 0, 0, 0]
        np.testing.assert_array_equal(batch["target"]["label"], rows % 3)
        np.testing.assert_array_equal(batch["index"], rows)


def test_a_replacement_of_another_size_is_named():
    def sizes(batch, draws):
        """Zero does not decode, and alone it is replaced by a smaller picture."""
        side = 4 if (batch["image"] == 0).any() else 2
        image = np.zeros((len(batch["image"]), side, side, 1))
        return batch | {"image": image, "failed": batch["image"].ravel() == 0}

    options = {"batch_size": 9, "seed": 0, "num_epochs": 1, "num_threads": 0}
    with pytest.raises(ValueError, match=r"data\.image_size: found 0 for images of"):
        next(batches.train_batches(numbers(9), sizes, **options))


def test_nothing_that_decodes_is_an_error():
    nothing = lambda batch: batch | {"failed": np.ones(len(batch["image"]), bool)}
    with pytest.raises(UnreadableImage, match="example 0 and others: found no"):
        next(batches.eval_batches(numbers(9), nothing, batch_size=4))
