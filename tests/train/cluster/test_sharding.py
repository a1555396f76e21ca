"""A state and a teacher that are split over devices train as whole ones do."""

import jax
import numpy as np
import pytest

from diffkd_jax.models.model import by_path
from diffkd_jax.train.batches import training_batches
from diffkd_jax.train.build import build
from diffkd_jax.train.cluster import sharding
from diffkd_jax.train.run import student_variables
from diffkd_jax.train.teacher import load_teacher
from tests.helpers.configs import resnet_config

FIELDS = {
    "method": "diffkd_logits",
    "train.ema_decay": 0.9,
    "train.norm_group_size": 8,
    "data.augment": "crop_flip",
    "mesh.fsdp_min_bytes": 512,
}


def trained(resnet, devices, fsdp):
    """The run, its teacher and its state after five steps."""
    run = build(resnet_config(num_devices=devices, **FIELDS | {"mesh.fsdp": fsdp}))
    run = run._replace(teacher=load_teacher(resnet, run.teacher))
    state, teacher, batches = (
        run.init(),
        run.teacher_variables,
        training_batches(run, 0),
    )
    for _, batch in zip(range(5), batches, strict=False):
        batch.pop("skipped")
        old_state = state
        state, metrics = run.step(
            old_state, teacher, sharding.put_batch(batch, run.devices.mesh)
        )
        assert all(x.is_deleted() for x in jax.tree.leaves(old_state))
    batches.close()
    return run, teacher, state, metrics


@pytest.fixture(scope="module")
def one(resnet):
    return trained(resnet, 1, 1)


def scores(run, state):
    return run.evaluate(run.student, student_variables(state))[0]


def on_first(tree):
    """Returns the bytes of a tree on the first device."""
    first = jax.devices()[0]
    return sum(
        part.data.nbytes
        for x in jax.tree.leaves(tree)
        for part in x.addressable_shards
        if part.device == first
    )


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_meshes_of_eight_devices_give_the_numbers_of_one(one, resnet, fsdp):
    run, teacher, state, metrics = trained(resnet, 8, fsdp)
    assert dict(run.devices.mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}
    for part, far in {"params": 1e-5, "ema": 1e-5, "opt_state": 2e-5}.items():
        pair = [by_path(getattr(s, part)) for s in (one[2], state)]
        for name, expected in pair[0].items():
            np.testing.assert_allclose(
                pair[1][name], expected, rtol=0, atol=far, err_msg=name
            )
    assert metrics["loss/total"] == pytest.approx(float(one[3]["loss/total"]), rel=1e-5)
    for tree in (state, teacher):
        for x, where in zip(
            *map(jax.tree.leaves, (tree, run.devices.choose_shardings(tree))),
            strict=True,
        ):
            assert x.sharding.is_equivalent_to(where, x.ndim)
    split = [x for x in jax.tree.leaves(state) if not x.is_fully_replicated]
    of_teacher = [x for x in jax.tree.leaves(teacher) if not x.is_fully_replicated]
    # None of its arrays has an axis that eight divides.
    assert (len(split) >= 10, bool(of_teacher)) == (fsdp > 1, fsdp in (2, 4))
    assert on_first(split) * fsdp == sum(x.nbytes for x in split)
    assert scores(run, state) == pytest.approx(scores(one[0], one[2]), rel=1e-5)
