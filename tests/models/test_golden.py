"""Agreement of the backbones with the reference definitions."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.import_torch import export_state_dict, import_state_dict
from tests.conftest import GOLDEN

CLASSES = {"c": 100, "t": 1000}
TAPS = {f"layer{i}": f"stage{i}" for i in range(1, 5)}
FILES = sorted((GOLDEN / "models").glob("*.npz"))


def regenerated(name, shape):
    """The reference weights, by the rule under which the goldens were made."""
    r = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        value = 0.5 + r.random(shape)
    elif name.endswith(("running_mean", "bias")):
        value = 0.1 * r.standard_normal(shape)
    elif len(shape) <= 1:
        value = 0.2 + 0.4 * r.random(shape)
    else:
        value = r.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_logits_equal_the_reference(path):
    with np.load(path) as z:
        golden = dict(z)
    meta = json.loads(str(golden["meta"]))
    x = np.random.default_rng(0).standard_normal(meta["input"]).astype(np.float32)
    x = jnp.asarray(x.transpose(0, 2, 3, 1))
    model = models.build(path.stem.partition("_")[2], num_classes=CLASSES[path.stem[0]])
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    rename = models.RENAMES[type(model)]
    state_dict = {k: regenerated(k, s) for k, s in meta["state_dict"].items()}
    variables = import_state_dict(state_dict, template, rename)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == meta["params"]
    outputs = jax.jit(model.apply)(variables, x)
    assert relative_error(outputs["logits"], golden["logits"]) < 1e-5
    for tap, name in TAPS.items():
        if f"tap/{tap}/slice" in golden:
            found = np.asarray(outputs[name])
            corner = found[0, :4, :4, :16].transpose(2, 0, 1)
            assert relative_error(corner, golden[f"tap/{tap}/slice"]) < 1e-5
            assert relative_error(found.mean(), golden[f"tap/{tap}/mean"]) < 1e-5
            assert relative_error(found.std(ddof=1), golden[f"tap/{tap}/std"]) < 1e-5
    exported = export_state_dict(variables, rename)
    assert {k: v.shape for k, v in exported.items()} == {
        k: tuple(s) for k, s in meta["state_dict"].items()
    }


def test_there_are_files():
    assert len(FILES) == 10


SMALL = [n for n in models.MODELS if n not in ("resnet18", "resnet34")]


@pytest.mark.parametrize("name", SMALL)
def test_outputs_for_grey_28_pixel_images(name):
    model = models.build(name, num_classes=7)
    x = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert out["logits"].shape == (2, 7)
    assert out["features"].shape[:3] == (2, 7, 7)
    assert {"stem", "stage1", "stage2", "stage3", "features", "pooled"} <= set(out)


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"found 'resnet9', expected one of .*resnet8"):
        models.build("resnet9", num_classes=2)
    with pytest.raises(ValueError, match=r"wrn_16_1.*depht"):
        models.build("wrn_16_1", num_classes=2, depht=3)
    with pytest.raises(ValueError, match="depth: found 9"):
        models.CifarResNet(9, 2).init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))
