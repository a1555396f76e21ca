"""A run stops at the first step whose numbers are not finite."""

import json

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.models.files import MODEL_FILE
from diffkd_jax.train.finite import require_finite
from tests.train.conftest import tiny_config

GOOD = {"loss/total": 1.0, "norm/params": 2.0, "gamma/loss/histogram": np.ones(20)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "name", ["loss/task", "norm/gradient", "norm/params", "norm/state"]
)
def test_the_first_broken_step_is_named_with_its_term(tmp_path, name, value):
    rows = {4: GOOD, 5: {**GOOD, name: value}, 6: {**GOOD, "loss/total": np.nan}}
    with pytest.raises(ValueError, match=f"^step 5: found {name} = {value}.*step 3 "):
        require_finite(rows, [1, 3], tmp_path)


def test_sound_steps_pass_and_vectors_are_not_looked_at(tmp_path):
    broken = {"gamma/loss/histogram": np.full(20, np.nan), "loss/task": 0.0}
    require_finite({4: GOOD, 5: broken}, [], tmp_path)


def test_a_checkpoint_that_was_broken_is_not_called_good(tmp_path):
    """Saved by a version that looked at losses alone."""
    rows = [{"step": 4, **GOOD}, {"step": 8, "loss/total": 1.0, "norm/params": np.nan}]
    rows[0].pop("gamma/loss/histogram")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text)
    broken = {10: {"loss/total": np.nan}}
    for saved, good in (([4, 8], "step 4 "), ([8], "step none ")):
        with pytest.raises(ValueError, match=f"last good checkpoint: {good}"):
            require_finite(broken, saved, tmp_path)


def test_broken_weights_stop_the_last_step_before_anything_is_written(tmp_path):
    """The loss of the only step is finite: it is that of the weights before it."""
    config = tiny_config(
        **{
            "method": "none",
            "optimizer.name": "tests.train.own_code:exploding",
            "schedule.name": "constant",
            "train.max_steps": 1,
        }
    )
    with config.unlocked():
        config.student.model = "tests.train.own_model:make"
        config.student.options = {"width": 4}
    with pytest.raises(ValueError, match=r"step 1: found norm/params = inf.*step none"):
        main.run(config, str(tmp_path))
    assert not (tmp_path / MODEL_FILE).exists()
    assert not list((tmp_path / "checkpoints").glob("[0-9]*"))
