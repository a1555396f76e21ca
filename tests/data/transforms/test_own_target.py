"""A kind of target of one's own follows its images, and is trained on."""

import json

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.config.resolve import resolve
from diffkd_jax.data.dataset import open_data
from diffkd_jax.data.transforms.draws import Draws
from tests.helpers.configs import tiny_config

OWN = "tests.helpers.own_keypoints"
FIELDS = {
    "data.name": f"{OWN}:load",
    "data.num_classes": 2,
    "data.limit": 0,
    "data.batch_size": 8,
    "data.eval_batch_size": 8,
    "data.augment": "scale_crop_flip",
    "data.train_size": (24, 32),
    "data.scale": (1.5, 2.0),
    "data.canvas": (12, 16),
    "data.padding": 0,
    "data.mean": (0.5,),
    "data.std": (0.5,),
}


def brightest(image):
    """The centre of the brightest pixel, in shares of width and height."""
    height, width = image.shape[:2]
    row, column = np.unravel_index(image.sum(-1).argmax(), (height, width))
    return (column + 0.5) / width, (row + 0.5) / height


def test_points_are_where_their_spots_are():
    options = resolve(tiny_config(**FIELDS)).data
    data = open_data(options)
    assert data.transform.name == "keypoints"
    rows = np.arange(16)
    batch = data.train.fetch(rows)
    trained = data.transform.train(batch, Draws(0, 0, rows), options)
    seen = data.transform.evaluate(batch, options)
    for shown, tolerance in ((trained, 0.05), (seen, 1e-6)):
        inside = 0
        for image, point in zip(shown["image"], shown["target"]["point"], strict=True):
            if image.max():
                assert np.allclose(brightest(image), point, atol=tolerance)
                inside += 1
        assert inside > 4


def test_fields_that_points_cannot_follow_are_refused():
    fields = {**FIELDS, "data.color_jitter": 0.4}
    with pytest.raises(ValueError, match=r"color_jitter: .* 0 for images with keypoi"):
        open_data(resolve(tiny_config(**fields)).data)


def test_a_run_distils_on_it(tmp_path):
    config = tiny_config(**FIELDS)
    with config.unlocked():
        config.task.name = f"{OWN}:locate"
        config.method = "diffkd_features"
        config.train.epochs = 2.0
    main.run(config, str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert 0 < summary["final_distance"] < 1
