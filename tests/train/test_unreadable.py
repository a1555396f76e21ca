"""A run trains on image files of which some do not decode."""

import numpy as np
import pytest
from PIL import Image

from diffkd_jax import main
from diffkd_jax.train.outputs.metrics import read_rows
from tests.helpers.configs import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes JPEGs of several sizes in two classes; one in each split is truncated."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 17)):
        for i in range(count):
            file = root / split / f"class{i % 2}" / f"{i:02}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = (40 + i, 60 - i, 3)
            shade = rng.integers(0, 256, (1, 1, 3)) * np.ones(size)
            Image.fromarray(shade.astype(np.uint8)).save(file, quality=90)
    for split in ("train", "val"):
        file = root / split / "class1/05.JPEG"
        file.write_bytes(file.read_bytes()[:400])
    return root


def config(folder, **fields):
    return tiny_config(
        **{
            "method": "none",
            "data.name": "folder",
            "data.path": str(folder),
            "data.eval_split": "val",
            "data.num_classes": 0,
            "data.limit": 0,
            "data.augment": "resized_crop",
            "data.image_size": 16,
            "data.resize": 20,
            "data.batch_size": 8,
            "data.mean": (0.5,),
            "data.std": (0.2,),
        }
        | fields
    )


def test_a_run_skips_unreadable_images_and_names_them(folder, tmp_path, caplog):
    main.run(config(folder, **{"data.max_unreadable": 0.1}), str(tmp_path))
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [r["unreadable"] for r in rows if "loss/total" in r][-1] == 1
    named = [r.getMessage() for r in caplog.records if "skipped" in r.message]
    for split in ("train", "val"):
        # Once, although both splits are read several times.
        file = str(folder / split / "class1/05.JPEG")
        assert sum(file in text for text in named) == 1
    # 16 pictures count: a share of sixteenths.
    top1 = [r["eval/top1"] for r in rows if "eval/top1" in r][-1]
    assert top1 * 16 == pytest.approx(round(top1 * 16))


def test_too_many_unreadable_images_stop_a_run(folder, tmp_path):
    with pytest.raises(ValueError, match=r"data\.max_unreadable: found 1 of 32 .*05"):
        main.run(config(folder), str(tmp_path))
