"""Checkpoints whose files hold something else than was written."""

import json
import os
import pathlib

import pytest

from diffkd_jax.train import checkpoint
from tests.train import test_checkpoint
from tests.train.test_checkpoint import kept, restored, saved, workdir  # noqa: F401

pytestmark = test_checkpoint.pytestmark
collected = test_checkpoint.collected


def change(text):
    return lambda folder: (folder / "meta/metadata").write_text(text)


def of_another_sharding(folder: pathlib.Path):
    """One bit that Orbax answers with ``NotImplementedError``."""
    file = folder / "state/_sharding"
    data = file.read_bytes()
    assert b"NamedSharding" in data
    file.write_bytes(data.replace(b"NamedSharding", b"NameDSharding"))


@pytest.mark.parametrize(
    "damage",
    [
        of_another_sharding,
        change("[1, 2]"),
        change("5"),
        change(json.dumps({"top1": "high", "checksum": 1})),
        change(json.dumps({"top1": 0.5, "checktum": 1})),
        change("[" * 100_000),
    ],
)
def test_content_that_is_no_checkpoint_is_damage(workdir, damage):  # noqa: F811
    damage(workdir / "checkpoints/20")
    assert restored(workdir) == 16
    assert kept(workdir) == [8, 16]


def test_a_best_one_that_is_damaged_does_not_keep_others_from_saving(
    workdir,  # noqa: F811
):
    change("[1]")(workdir / "checkpoints/8")
    with checkpoint.manager(workdir) as checkpoints:
        checkpoint.save(checkpoints, 24, test_checkpoint.state(24), 0.1)
    assert restored(workdir) == 24


def test_swapped_checkpoints_are_damage(workdir, caplog):  # noqa: F811
    folder = workdir / "checkpoints"
    os.rename(folder / "8", folder / "x")
    os.rename(folder / "20", folder / "8")
    os.rename(folder / "x", folder / "20")
    assert restored(workdir) == 16
    assert "it holds step 8" in caplog.text
