"""An evaluation on the training split is allowed, and logs a warning."""

import pytest

from diffkd_jax.train.build import build
from tests.helpers.configs import tiny_config


@pytest.mark.parametrize(
    ("split", "mode", "said"),
    [("train", "train", True), ("train", "evaluate", False), ("test", "train", False)],
)
def test_evaluating_on_the_training_split_logs_a_warning(caplog, split, mode, said):
    fields = {"method": "none", "mode": mode, "data.eval_split": split}
    build(tiny_config(**fields))
    assert ("data.eval_split: found 'train'" in caplog.text) == said
