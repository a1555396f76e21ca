"""Which step counts as the best."""

import math

import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

from diffkd_jax.train import checkpoint


def test_the_best_checkpoint_is_never_one_without_a_score(tmp_path):
    with checkpoint.manager(tmp_path) as checkpoints:
        for step, top1 in enumerate([0.5, math.nan, math.inf, 0.4, 0.3], 1):
            state = ocp.args.StandardSave({"x": jnp.ones(2)})
            args = ocp.args.Composite(state=state)
            checkpoints.save(step, args=args, metrics={"top1": top1})
        checkpoints.wait_until_finished()
        assert sorted(checkpoints.all_steps()) == [1, 5]


@pytest.mark.parametrize("place", range(3))
def test_a_score_that_is_not_finite_never_wins(place):
    rows = [{"top1": 0.2}, {"top1": 0.3}]
    rows.insert(place, {"top1": math.nan})
    assert max(rows, key=checkpoint.score)["top1"] == 0.3
