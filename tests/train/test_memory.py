"""The least memory that a run needs on its devices is computed and checked."""

import jax
import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.train.build import build
from diffkd_jax.train.memory import count_bytes
from tests.helpers.configs import tiny_config


def test_bytes_are_those_of_the_arrays():
    config = tiny_config(**{"optimizer.momentum": 0.0, "train.ema_decay": 0.5})
    run = build(config)
    state = run.init()
    arrays = [x for x in jax.tree.leaves(state) if x.dtype != jax.random.key(0).dtype]
    least = count_bytes(run)
    assert least["state"] == sum(x.nbytes for x in arrays)
    assert least["batch"] == 16 * (28 * 28 * 4 + 3 * 4)  # index, mask and label too
    params = 3 * 3 * 6 + 6 + 4 * 6 + 6 * 10 + 10
    assert least["teacher"] == 4 * params


def test_arrays_that_are_split_count_by_their_part_on_a_device():
    fields = {"num_devices": 8, "mesh.fsdp": 8, "mesh.fsdp_min_bytes": 1}
    wide = {"student.options.width": 512}
    split = count_bytes(build(tiny_config(**fields | wide)))
    whole = count_bytes(build(tiny_config(**wide)))
    assert split["state"] < whole["state"] / 3
    assert split["batch"] * 8 == whole["batch"]


@pytest.mark.parametrize("dry", [True, False])
def test_a_model_larger_than_the_memory_is_refused_with_its_size(dry, tmp_path):
    config = tiny_config(method="none", dry_run=dry)
    config.student.options.width = 10**10
    with pytest.raises(ValueError, match=r"GiB for [\d,.]+ GiB on each \(state [\d,]+"):
        main.run(config, str(tmp_path / "run"))


def test_a_batch_larger_than_the_memory_is_refused(tmp_path):
    config = tiny_config(method="none", dry_run=True)
    config.data.image_size, config.data.resize = 8192, 8192
    image = np.zeros((1000, 2, 2, 3), np.uint8)
    label = np.arange(1000) % 10
    names = ("train/image", "test/image", "train/label", "test/label")
    np.savez(
        tmp_path / "data.npz",
        **dict(zip(names, [image] * 2 + [label] * 2, strict=True)),
    )
    config.data.name, config.data.path = "npz", str(tmp_path / "data.npz")
    config.data.limit, config.data.batch_size = 0, 1000
    with pytest.raises(ValueError, match=r"batch 7\d\d\.\d GiB"):
        main.run(config)
