"""Evaluation on the training split, which is allowed and said."""

import pytest

from diffkd_jax.train.build import build
from tests.helpers.configs import tiny_config


@pytest.mark.parametrize(
    ("split", "mode", "said"),
    [("train", "train", True), ("train", "evaluate", False), ("test", "train", False)],
)
def test_scores_on_the_training_split_are_called_that(caplog, split, mode, said):
    fields = {"method": "none", "mode": mode, "data.eval_split": split}
    build(tiny_config(**fields))
    assert ("data.eval_split: found 'train'" in caplog.text) == said
