"""The entry of a checkpoint that is read, and the prefixes that are removed."""

import logging
import pathlib

import numpy as np
import pytest

from diffkd_jax.models import (
    DETECTION_MODELS,
    MODELS,
    SEGMENTATION_MODELS,
    build_network,
)
from diffkd_jax.weights.torch.convert import import_state_dict
from diffkd_jax.weights.torch.names.classifiers import references
from diffkd_jax.weights.torch.renaming import rename_path
from diffkd_jax.weights.torch.state_dicts import (
    PREFIXES,
    choose_weights,
    strip_prefixes,
)

PATH = pathlib.Path("file.pth")
RAW, AVERAGE = {"w": np.zeros(1)}, {"w": np.ones(1)}


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema_model", "ema"])
def test_weights_or_their_average(key, caplog):
    caplog.set_level(logging.INFO)
    both = {"epoch": 3, "state_dict": RAW, key: AVERAGE}
    assert choose_weights(PATH, both) is not AVERAGE
    assert choose_weights(PATH, both)["w"] == 0
    assert "file.pth: took the weights under 'state_dict' of" in caplog.text
    assert choose_weights(PATH, both, "ema")["w"] == 1
    assert f"under '{key}' of ['state_dict', '{key}']" in caplog.text
    assert choose_weights(PATH, {"epoch": 3, key: AVERAGE})["w"] == 1  # alone
    assert (
        choose_weights(PATH, {"epoch": 3, key: {"module": AVERAGE, "decay": 0.9}})["w"]
        == 1
    )


def test_a_state_dict_alone_is_not_spoken_of(caplog):
    caplog.set_level(logging.INFO)
    assert strip_prefixes(PATH, choose_weights(PATH, RAW)) == RAW
    assert not caplog.text


def test_no_average_and_no_weights():
    with pytest.raises(ValueError, match=r"without an average \(but \['epoch', 'state"):
        choose_weights(PATH, {"state_dict": RAW, "epoch": 1}, "ema")
    with pytest.raises(ValueError, match="weights: found 'best', expected '' or 'ema'"):
        choose_weights(PATH, RAW, "best")
    with pytest.raises(ValueError, match=r"no arrays by name \(but \['epoch'\]\)"):
        choose_weights(PATH, {"epoch": 1})


@pytest.mark.parametrize(
    "prefix",
    [
        *PREFIXES,
        *("module._orig_mod.", "_orig_mod.module.", "module.model.backbone."),
        *("student.module.", "module.module.", "net.", "teacher.", "1."),
        *("_forward_module.", "ema_model.module.", "any.thing."),
    ],
)
def test_prefixes_of_all_names(prefix, caplog):
    caplog.set_level(logging.INFO)
    names = ("conv1.weight", "bn1.bias", "module_list.0.weight")
    found = strip_prefixes(PATH, {prefix + name: 0 for name in names})
    assert tuple(found) == names
    assert f"file.pth: took the prefix {prefix!r} off all names" in caplog.text


def test_a_part_of_a_model_keeps_its_name():
    part = {"fc.weight": 0, "fc.bias": 0}
    assert strip_prefixes(PATH, part) == part
    assert strip_prefixes(PATH, {f"any.{name}": v for name, v in part.items()}) == part


def test_weights_under_a_name_of_their_own():
    others = {"epoch": 3, "optimizer": {"state": {0: RAW}}}
    assert choose_weights(PATH, others | {"mine": RAW}) == RAW
    with pytest.raises(ValueError, match="no arrays by name"):
        choose_weights(PATH, others | {"student": RAW, "teacher": AVERAGE})


def test_prefixes_of_some_names_stay():
    mixed = {"backbone.conv1.weight": 0, "head.fc.bias": 0}
    assert strip_prefixes(PATH, mixed) == mixed
    assert strip_prefixes(PATH, {"module.a.b": 0, "n_averaged": 1}) == {"a.b": 0}
    assert strip_prefixes(PATH, {"module.a.b": 0, "module._diff.model.c": 1}) == {
        "a.b": 0
    }


def tables(name):
    found = references(build_network(name, num_classes=2))
    if name == "deeplabv3_resnet50":
        found |= references(build_network(name, num_classes=2, deep_stem=False))
        assert {"cirkd", "torchvision"} == set(found)
    return found.values()


def test_no_reference_has_such_names():
    """Otherwise the removal of a prefix would harm a sound file."""
    parts = ("stem", "head", "stage1/block0/conv0/conv", "patch_conv", "last_norm")
    dense = ("backbone/stem/conv", "backbone/stage1/block0/conv0/conv", "head")
    boxes = (*dense[:2], "class_head")
    for name in MODELS:
        parts = dense if name in SEGMENTATION_MODELS else parts
        parts = boxes if name in DETECTION_MODELS else parts
        for table in tables(name):
            named = [rename_path(part, table) + "." for part in parts]
            assert not all(n.startswith(PREFIXES) for n in named), name
            assert len({n.partition(".")[0] for n in named}) > 1, name


def test_counters_of_a_profiler_are_no_weights():
    template = {"params": {"head": {"bias": np.zeros(2)}}}
    counted = {"fc.bias": np.ones(2), "total_ops": 1, "fc.total_params": 2}
    found = import_state_dict(counted, template, (("head", "fc"),))
    np.testing.assert_array_equal(found["params"]["head"]["bias"], np.ones(2))
