"""A run with compared gradients trains as one without, and reports the figures."""

import numpy as np
import pytest

from diffkd_jax import main
from diffkd_jax.train.cluster.signals import Stopped
from diffkd_jax.train.commands.train import train
from diffkd_jax.train.outputs.metrics import read_rows
from diffkd_jax.weights.weights import open_weights
from tests.helpers.configs import tiny_config

KINDS = {
    "sharded": {"num_devices": 2, "mesh.fsdp": 2, "mesh.fsdp_min_bytes": 16},
    "mixed": {
        "train.distill_every": 2,
        "student.dtype": "bfloat16",
        "optimizer.frozen": ("head/*",),
    },
    "skipped": {
        "train.max_skipped": 8,
        "weights.logits": lambda step: 0.0 / (step - 3),
    },
}
EVERY = 3


def trained(workdir, teacher, **fields):
    """The summary and the arrays of a finished run."""
    config = tiny_config(**{"teacher.init": str(teacher)})
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    train(config, workdir)
    return {
        k: np.array(v)
        for k, v in open_weights(workdir / "model.safetensors").arrays.items()
    }


def compared(workdir):
    """Rows of compared gradients by step."""
    rows = read_rows(workdir / "metrics.jsonl")
    return {row["step"]: row for row in rows if "norm/task_gradient" in row}


@pytest.mark.parametrize(
    "kind",
    [
        "mixed",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("sharded", "skipped")),
    ],
)
def test_training_is_the_same_to_the_bit(kind, finished, tmp_path):
    teacher = finished / "teacher"
    without = trained(tmp_path / "without", teacher, **KINDS[kind])
    diagnosed = trained(
        tmp_path / "with", teacher, **KINDS[kind], **{"train.diagnose_every": EVERY}
    )
    assert without.keys() == diagnosed.keys()
    for name, array in without.items():
        np.testing.assert_array_equal(array, diagnosed[name])
    assert compared(tmp_path / "without") == {}
    rows = compared(tmp_path / "with")
    steps = [1, 5] if kind == "mixed" else [1, 4, 7]
    assert list(rows) == steps
    for row in rows.values():
        is_undefined = kind == "skipped" and row["step"] == 4
        assert np.isnan(row["gradient_ratio/distillation"]) == is_undefined
        assert row["gradient_ratio/features/distance"] > 0
        assert -1 <= row["gradient_cosine/features/distance"] <= 1


@pytest.mark.slow
def test_figures_of_a_resumed_run_are_those_of_a_whole_one(finished, tmp_path):
    fields = {"teacher.init": str(finished / "teacher"), "train.diagnose_every": EVERY}
    calls = iter([0] * 8 + [15] * 9)
    with pytest.raises(Stopped):
        train(tiny_config(**fields), tmp_path / "run", lambda: next(calls))
    train(tiny_config(**fields), tmp_path / "run")
    train(tiny_config(**fields), tmp_path / "whole")
    assert compared(tmp_path / "run") == compared(tmp_path / "whole")


def test_a_method_without_a_teacher_compares_nothing(tmp_path):
    main.run(
        tiny_config(**{"method": "none", "train.diagnose_every": 1}),
        str(tmp_path / "r"),
    )
    assert compared(tmp_path / "r") == {}
