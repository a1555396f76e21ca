"""Agreement of the networks of segmentation with their definitions."""

import functools
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.backbones.layers import ConvNorm
from diffkd_jax.models.dense.segmenter import Aspp
from diffkd_jax.ops.resize import bilinear
from diffkd_jax.train.outputs.summary import count_multiply_adds, count_parameters
from diffkd_jax.weights.torch.convert import export_state_dict, import_state_dict
from diffkd_jax.weights.torch.names.classifiers import references
from diffkd_jax.weights.torch.names.segmenters import TORCHVISION_HEADS
from tests.helpers.goldens import GOLDEN, relative_error

TORCHVISION = {"deep_stem": False, "align_corners": False, "head_dropout": 0.0}
NO_DROPOUT = {"head_dropout": 0.0, "aux_dropout": 0.0}
CIRKD = {
    "deeplabv3_resnet18": NO_DROPOUT | {"aspp_dropout": 0.0},
    "pspnet_resnet18": NO_DROPOUT,
    "deeplabv3_mobilenet_v2": NO_DROPOUT | {"aspp_dropout": 0.0},
}


def read(name):
    with np.load(GOLDEN / "dense" / f"{name}.npz") as z:
        golden = dict(z)
    meta = json.loads(str(golden["meta"]))
    x = np.random.default_rng(meta["seed"]).standard_normal(meta["input"])
    return golden, meta, nhwc(x.astype(np.float32))


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def nchw(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def regenerated(meta):
    """The weights, by the rule under which the goldens were made."""
    weights = {}
    for name, shape in zip(meta["names"], meta["shapes"], strict=True):
        r = np.random.default_rng(zlib.crc32((meta["salt"] + name).encode()))
        if name.endswith("running_var"):
            value = 0.5 + r.random(shape)
        elif name.endswith(("running_mean", "bias")):
            value = 0.1 * r.standard_normal(shape)
        elif len(shape) <= 1:
            value = 0.5 + 0.5 * r.random(shape)
        else:
            value = r.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        for pattern, gain in meta["gains"]:
            value = value * (gain if re.search(pattern, name) else 1)
        weights[name] = value.astype(np.float32)
    return weights


@functools.cache
def loaded(name, file, reference, **options):
    golden, meta, x = read(file)
    options = {"num_classes": meta["classes"]} | options
    model = models.build_network(name, **options)
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    weights, rename = regenerated(meta), references(model)[reference]
    variables = import_state_dict(weights, template, rename)
    exported = export_state_dict(variables, rename)
    assert exported.keys() == weights.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, weights[key])
    return golden, model, variables, x


@pytest.mark.parametrize("name", CIRKD)
def test_outputs_equal_the_family_of_the_paper(name):
    golden, model, variables, x = loaded(name, name, "cirkd", **CIRKD[name])
    found = jax.jit(model.apply)(variables, x)
    last = "stage7" if name.endswith("mobilenet_v2") else "stage4"
    assert relative_error(nchw(found[last])[:, :8], golden["out/stage4"]) < 1e-5
    assert relative_error(nchw(found["logits"]), golden["out/logits"]) < 1e-5
    assert ("aux_logits" in found) == ("out/aux_logits" in golden)
    if "aux_logits" in found:
        aux = nchw(found["aux_logits"])
        assert relative_error(aux, golden["out/aux_logits"]) < 1e-5
        assert relative_error(nchw(found["stage3"])[:, :8], golden["out/stage3"]) < 1e-5


@pytest.mark.parametrize("name", CIRKD)
def test_training_equals_the_family_of_the_paper(name):
    golden, model, variables, x = loaded(name, name, "cirkd", **CIRKD[name])
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    outputs, state = apply(variables, x)
    assert relative_error(nchw(outputs["logits"]), golden["train/logits"]) < 1e-4
    after = export_state_dict(state, references(model)["cirkd"])
    check_named(golden, "train/stats_after/", after, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CIRKD)
def test_gradients_equal_the_family_of_the_paper(name):
    """The loss is taken at full size, and includes the auxiliary loss."""
    golden, model, variables, x = loaded(name, name, "cirkd", **CIRKD[name])
    label = golden["in/label"].astype(int)
    valid = jnp.asarray(label != 255)
    label = jnp.where(valid, label, 0)

    def entropy(logits):
        logits = bilinear(logits, label.shape[1:], align_corners=model.align_corners)
        log_p = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_p, label[..., None], -1)[..., 0]
        return -jnp.where(valid, picked, 0).sum() / valid.sum()

    @jax.jit
    @jax.value_and_grad
    def step(params):
        own = variables | {"params": params}
        out, _ = model.apply(own, x, train=True, mutable=["batch_stats"])
        aux = entropy(out["aux_logits"]) if model.aux else 0
        return entropy(out["logits"]) + 0.4 * aux

    loss, gradient = step(variables["params"])
    assert relative_error(loss, golden["train/loss"]) < 1e-5
    gradient = export_state_dict({"params": gradient}, references(model)["cirkd"])
    norms = {k: np.linalg.norm(v.ravel()) for k, v in gradient.items()}
    check_named(golden, "train/grad_norm/", norms, 1e-3)


def check_named(golden, prefix, found, tolerance):
    known = [k for k in golden if k.startswith(prefix)]
    assert len(known) >= 2
    for key in known:
        error = relative_error(found[key.removeprefix(prefix)], golden[key])
        assert error < tolerance, key


def test_outputs_equal_torchvision():
    name = "deeplabv3_resnet50"
    golden, model, variables, x = loaded(
        name, f"{name}_torchvision", "torchvision", **TORCHVISION
    )
    found = jax.jit(model.apply)(variables, x)
    for tap, expected in {
        "stage3": golden["out/layer3"],
        "stage4": golden["out/layer4"],
        "logits": golden["out/logits"],
        "aux_logits": golden["out/aux_logits"],
    }.items():
        part = nchw(found[tap])[:, : expected.shape[1]]
        assert relative_error(part, expected) < 1e-5, tap


def test_the_rates_of_the_aspp():
    golden, meta, x = read("aspp")
    net = Aspp(8, (12, 24, 36), functools.partial(ConvNorm, train=False))
    template = jax.eval_shape(net.init, jax.random.key(0), x)
    weights = {f"classifier.0.{k}": v for k, v in regenerated(meta).items()}
    rename = ((r"^", "aspp/"), *TORCHVISION_HEADS)
    variables = import_state_dict(weights, template, rename)
    found = nchw(jax.jit(net.apply)(variables, x))
    assert relative_error(found, golden["out/aspp"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "parameters", "products"),
    [
        ("deeplabv3_resnet18", 13.608, 517.5),
        ("pspnet_resnet18", 12.919, 488.7),
        ("deeplabv3_mobilenet_v2", 3.233, 106.5),
        ("deeplabv3_resnet101", 61.119, 2063.4),
    ],
)
def test_sizes_are_those_of_the_paper(name, parameters, products):
    model = models.build_network(name, num_classes=19)
    x = jax.ShapeDtypeStruct((1, 1024, 2048, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert count_parameters(variables["params"]) / 1e6 == pytest.approx(
        parameters, abs=5e-4
    )
    found = count_multiply_adds(lambda v, x: model.apply(v, x), variables, x)
    assert found / 1e9 == pytest.approx(products, rel=2e-3)
