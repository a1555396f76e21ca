"""Every field of a config is refused by its name if its value makes no sense."""

import functools
import math
import re

import jax
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from diffkd_jax.config import base
from diffkd_jax.data.sources import registry
from diffkd_jax.train.build import build
from tests.helpers.configs import load_config, tiny_config

SENSELESS = {
    bool: ("yes",),
    int: (-1, 0, 2**70, 10**9, "many", math.nan, None),
    float: (-1.0, 0.0, 1e30, math.inf, math.nan, "much", None),
    str: ("", "nonsense", 3),
    tuple: ((), (-1.0,), (math.nan,), ("a",), 5),
}
LOAD_EMBEDDED = functools.cache(registry.load_embedded)
ZERO = "zero is off, all, or the default"
# Values that stay accepted, and the reasons.
ACCEPTED = {
    "seed": "zero is a seed",
    "num_devices": ZERO,
    "distributed.num_processes": "read where distributed.enabled is set",
    "distributed.process_id": "likewise",
    "distributed.coordinator": "likewise",
    "distributed.local_devices": "none is all",
    "mesh.fsdp_min_bytes": "arrays that none is as large as stay whole",
    "checkpoint.every_minutes": ZERO,
    "log_every_steps": "a log that never comes is no fault",
    "name": "a name; an empty one is runs/",
    "predictions": "a folder, read where mode is predict",
    "data.path": "no file is read by the embedded set",
    "data.holdout": ZERO,
    "data.max_doubtful": ZERO,
    "data.max_level": ZERO,
    "data.limit": f"{ZERO}; more than there are is all",
    "data.num_classes": ZERO,
    "data.eval_batch_size": "rounded down to the split",
    "data.padding": ZERO,
    "data.scale_step": "zero is any scale between; read by 'scale_crop_flip' alone",
    "data.train_size": ZERO,
    "data.canvas": ZERO,
    "data.rand_augment": ZERO,
    "data.rand_augment_std": ZERO,
    "data.color_jitter": ZERO,
    "data.image_size": ZERO,
    "data.eval_size": ZERO,
    "data.resize": ZERO,
    "data.resize_longest": ZERO,
    "data.train_resize": ZERO,
    "data.num_threads": ZERO,
    "data.num_workers": ZERO,
    "data.max_unreadable": "zero allows none",
    "data.stalled_seconds": "as long as anybody likes to wait",
    "data.channels": ZERO,
    "data.mean": "zero is the middle of nothing",
    "train.max_skipped": ZERO,
    "train.chance_evaluations": f"{ZERO}; a large one says nothing",
    "train.distill_warmup_epochs": ZERO,
    "train.distill_every": "a large one distils the first step alone",
    "teacher.num_classes": ZERO,
    "teacher.epochs": f"{ZERO}; read where a teacher is trained",
    "teacher.init": "read where a method has a teacher",
    "teacher.workdir": "likewise",
    "teacher.model": "likewise",
    "teacher.weights": "likewise",
    "teacher.min_score": "any number may be a score",
    "compare": "which methods there are says the run",
    "comparison.seeds": "none is the field seed",
    "train.diagnose_every": "0 is never",
    "train.max_steps": f"{ZERO}; more than there are is all",
    "train.label_smoothing": ZERO,
    "train.norm_group_size": ZERO,
    "train.ema_decay": ZERO,
    "mix.mixup": ZERO,
    "mix.cutmix": ZERO,
    "mix.switch": ZERO,
    "mix.erase": ZERO,
    "optimizer.momentum": ZERO,
    "optimizer.weight_decay": ZERO,
    "optimizer.clip_norm": f"{ZERO}; a large one clips nothing",
    "optimizer.decay": ZERO,
    "optimizer.frozen": "none",
    "schedule.boundaries": "none",
    "schedule.every_epochs": "read by the schedule 'exponential' alone",
    "schedule.end": "read by the schedule 'cosine' alone",
    "schedule.warmup_epochs": ZERO,
    "schedule.warmup_start": "read where there is a warm-up",
    "student.init": "read by the run, before its first step",
    "student.init_into": "likewise",
    "student.init_leave_out": "likewise",
    "student.inherit": "likewise",
}


def small(recipe):
    """A recipe as it is, but for tiny networks on a few embedded images."""
    config = load_config(recipe)
    with config.unlocked():
        tiny = tiny_config()
        config.data.update(
            {k: tiny.data[k] for k in ("name", "path", "num_classes", "eval_split",
                                       "mean", "std", "limit", "num_workers")}
        )  # fmt: skip
        config.data.batch_size, config.train.norm_group_size = 16, 0
        for side in (config.student, config.teacher):
            side.model, side.options = tiny.student.model, {}
        config.num_devices, config.method = 1, "none"
        if config.data.image_size:
            config.data.image_size, config.data.resize = 16, 20
    return config.lock()


def outcome(config, field, value):
    """``refused``, ``accepted``, or what went wrong."""
    changed = config.copy_and_resolve_references()
    try:
        changed.update_from_flattened_dict({field: value})
    except (TypeError, ValueError, KeyError):
        return "refused"  # by its type, as on the command line
    try:
        build(changed)
    except (ValueError, FileNotFoundError) as error:
        named = field in str(error) or field.split(".")[-1] in str(error)
        return "refused" if named else f"no field: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    """The embedded images, hundreds of times."""
    monkeypatch.setitem(registry.DATASETS, "fashion_mnist_embedded", LOAD_EMBEDDED)


@pytest.mark.parametrize("recipe", ["quickstart", "cifar10", "imagenet"])
def test_no_senseless_value_ends_in_a_traceback(recipe):
    config = small(recipe)
    wrong, accepted = {}, {}
    for field, value in flatten_dict(config.to_dict(), sep=".").items():
        if field.startswith(
            (
                "methods.",
                "teacher.schedule",
                "teacher.optimizer",
                "teacher.mix",
                "teacher.train",
                "teacher.data",
            )
        ):
            continue  # fmt: skip  # below
        for other in SENSELESS.get(type(value), ()):
            result = outcome(config, field, other)
            if result == "accepted":
                accepted.setdefault(field, []).append(other)
            elif result != "refused":
                wrong[field, str(other)] = result
    assert wrong == {}
    assert set(accepted) <= set(ACCEPTED), accepted
    for values in accepted.values():
        assert not any(isinstance(v, float) and math.isnan(v) for v in values), accepted


@pytest.mark.parametrize("method", ["kd", "dkd", "dist", "diffkd"])
def test_options_of_a_method_are_refused_by_their_names(method):
    config = small("quickstart")
    config.method = method
    wrong = {}
    for name, value in config.methods[method].items():
        for other in SENSELESS.get(type(value), (0, -1)):
            if other in (0, 0.0) and name in WITHOUT:
                continue  # without that term or those steps
            result = outcome(config, f"methods.{method}.{name}", other)
            if result != "refused":
                wrong[name, str(other)] = result
    assert wrong == {}


WITHOUT = ("min_noise", "alpha", "beta", "gamma", "num_steps")
WITHOUT += ("weight", "task_weight", "logits_weight")


@pytest.mark.parametrize(
    "field",
    [f for f in flatten_dict(base().teacher.to_dict(), sep=".") if "." in f],
)
def test_the_teacher_s_own_recipe_has_the_same_ranges(field):
    config = small("quickstart")
    for other in (-1.0, math.nan, "nonsense"):
        result = outcome(config, f"teacher.{field}", other)
        assert result in ("refused", "accepted"), (other, result)
        if field.split(".")[0] not in ("data",) and other is math.nan:
            assert result == "refused"


TOGETHER = [
    ({"schedule.name": "exponential"}, "schedule.every_epochs: found 0"),
    ({"schedule.warmup_epochs": 100.0}, "schedule.warmup_epochs: found 100"),
    (
        {"train.distill_warmup_epochs": 100.0},
        "train.distill_warmup_epochs: found 100.0, expected at most ",
    ),
    (
        {"schedule.name": "cosine", "schedule.end": 1.0},
        "schedule.end: found 1.0, expected at most 0.1",
    ),
    (
        {"teacher.epochs": 4.0, "teacher.schedule.warmup_epochs": 5.0},
        "teacher.schedule.warmup_epochs: found 5.0, expected at most 4.0, teacher.ep",
    ),
    ({"data.augment": "resized_crop"}, "data.image_size: found 0"),
    ({"data.augment": "scale_crop_flip"}, r"data.train_size: found \(\)"),
    ({"data.train_size": (8, 8)}, r"data.train_size: found \(8, 8\), expected \(\)"),
    ({"data.canvas": (28, 0)}, r"data.canvas: found \(28, 0\), expected \(\) or"),
    ({"data.scale": (2.0, 1.0)}, r"data.scale: found \(2.0, 1.0\), expected the"),
    ({"data.image_size": 28, "data.resize": 20}, "data.resize: found 20, expected"),
    ({"data.mean": (123.7,), "data.std": (58.4,)}, "data.mean: .*\ndata.std: "),
    (
        {"seed": -1, "train.ema_decay": 2.0},
        "seed: found -1.*\ntrain.ema_decay: found 2",
    ),
    ({"train.norm_group_size": 7}, "train.norm_group_size: found 7"),
    ({"teacher.min_score": math.nan}, "teacher.min_score: found nan"),
]


@pytest.mark.parametrize(("fields", "message"), TOGETHER)
def test_fields_that_need_each_other(fields, message):
    config = small("quickstart")
    config.update_from_flattened_dict(fields)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build(config)


def test_unknown_fields_are_named():
    config = ConfigDict(small("quickstart").to_dict())
    config.train.lable_smoothing = 0.1
    with pytest.raises(
        ValueError, match=r"train\.lable_smoothing: found 0\.1, expected no"
    ):
        build(config)


def test_everything_is_checked_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(jax, "jit", None)
    config = small("quickstart")
    config.optimizer.learning_rate = -1.0
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: found -1"):
        build(config)
