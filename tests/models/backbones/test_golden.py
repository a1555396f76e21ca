"""Agreement of the backbones with the reference definitions."""

import functools
import json
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.backbones.cifar_resnet import CifarResNet
from diffkd_jax.models.backbones.layers import make_conv
from diffkd_jax.models.backbones.swin import Swin
from diffkd_jax.weights.torch.convert import export_state_dict, import_state_dict
from diffkd_jax.weights.torch.names.classifiers import references
from tests.helpers.goldens import GOLDEN, relative_error
from tests.helpers.variables import random_variables

# Names of references that differ from the names of our models.
MODEL = {
    "MobileNetV2": "cifar_mobilenet_v2",
    "ResNet50": "cifar_resnet50",
    "ShuffleV1": "shufflenet_v1",
    "ShuffleV2": "shufflenet_v2",
    "swin_large_patch4_window7_224": "swin_l",
    "swin_tiny_patch4_window7_224": "swin_t",
}
TAPS = {f"layer{i}": f"stage{i}" for i in range(1, 5)}
TAPS |= {"layers.0": "stage1", "layers.3": "stage4", "norm": "features"}
TAPS |= {"features.8": "features", "features.18": "features", "model.13": "features"}
TAPS |= {"conv_head": "last_conv", "fc": "logits", "classifier": "logits"}
TAPS |= {"head": "logits"}
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
    elif "relative_position_bias_table" in name:
        value = 0.02 * r.standard_normal(shape)
    else:
        value = r.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)


def slice_of(found, swin):
    """The part of a tap that the goldens keep, in the layout of the reference."""
    if found.ndim == 2 or swin == "norm":
        return found[0].ravel()[:256]
    if not swin:
        found = found.transpose(0, 3, 1, 2)
    return found[0, :16, :4, :4]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_outputs_equal_the_reference(path):
    with np.load(path) as z:
        golden = dict(z)
    meta = json.loads(str(golden["meta"]))
    x = np.random.default_rng(0).standard_normal(meta["input"]).astype(np.float32)
    x = jnp.asarray(x.transpose(0, 2, 3, 1))
    reference, _, name = path.stem.partition("_")
    classes = golden["logits"].shape[-1]
    model = models.build_network(MODEL.get(name, name), num_classes=classes)
    template = jax.eval_shape(model.init, jax.random.key(0), x)
    rename = references(model)[reference]
    state_dict = {k: regenerated(k, s) for k, s in meta["state_dict"].items()}
    variables = import_state_dict(state_dict, template, rename)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == meta["params"]
    outputs = jax.jit(model.apply)(variables, x)
    assert relative_error(outputs["logits"], golden["logits"]) < 1e-5
    taps = [k.split("/")[1] for k in golden if k.endswith("/slice")]
    for tap in taps:
        found = np.asarray(outputs[TAPS[tap]])
        expected = {k: golden[f"tap/{tap}/{k}"] for k in ("slice", "mean", "std")}
        corner = slice_of(found, tap if "swin" in path.stem else "")
        assert relative_error(corner, expected["slice"]) < 1e-5
        assert relative_error(found.mean(), expected["mean"]) < 1e-5
        assert relative_error(found.std(ddof=1), expected["std"]) < 1e-5
    exported = export_state_dict(variables, rename)
    assert {k: v.shape for k, v in exported.items()} == {
        k: tuple(s) for k, s in meta["state_dict"].items()
    }
    for key, value in exported.items():
        np.testing.assert_array_equal(value, state_dict[key])


def test_there_are_files():
    assert len(FILES) == 28


@pytest.mark.parametrize("name", models.IMAGENET_MODELS | models.CIFAR_MODELS)
def test_outputs_for_grey_images(name):
    model = models.build_network(name, num_classes=7)
    x = jax.ShapeDtypeStruct((2, 64, 64, 1), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert out["logits"].shape == (2, 7)
    assert out["features"].ndim == 4
    assert out["pooled"].shape == (2, out["features"].shape[-1])
    assert {"stage1", "stage2", "stage3"} <= set(out)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_keeps_what_strides_compute(name, output_stride):
    x = np.random.default_rng(0).standard_normal((1, 96, 96, 3)).astype(np.float32)
    strided = models.build_network(name, num_classes=3)
    dilated = models.build_network(name, num_classes=3, output_stride=output_stride)
    variables = random_variables(strided, x.shape[1:])
    expected, found = (
        jax.jit(m.apply)(variables, x)["features"] for m in (strided, dilated)
    )
    step = 32 // output_stride
    assert found.shape[1:3] == (96 // output_stride, 96 // output_stride)
    assert relative_error(found[:, ::step, ::step], expected) < 1e-5


def test_output_strides_are_checked():
    model = models.build_network("resnet18", num_classes=3, output_stride=12)
    with pytest.raises(ValueError, match=r"output_stride: found 12, expected .*16"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 64, 64, 3)))


SLOW_TO_COMPILE = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("efficientnet_lite0", "efficientnet_b0")
]


# It has each kind of layer once. The goldens hold the whole network.
SMALL_SWIN = functools.partial(Swin, (1, 1, 2, 1), 32)
BUILD = {"small_swin": SMALL_SWIN}


def build(name, **options):
    return BUILD.get(name, functools.partial(models.build_network, name))(**options)


@pytest.mark.parametrize("name", ["resnet18", SLOW_TO_COMPILE[0], "small_swin"])
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(name):
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    exact = build(name, num_classes=5)
    model = build(name, num_classes=5, dtype=jnp.bfloat16)
    variables = random_variables(model, x.shape[1:])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    out = jax.jit(model.apply)(variables, x)
    assert out["features"].dtype == jnp.bfloat16
    assert out["logits"].dtype == jnp.float32
    expected = jax.jit(exact.apply)(variables, x)
    assert relative_error(out["logits"], expected["logits"]) < 0.1


def test_zero_initialised_norms_make_blocks_identities():
    model = models.build_network("resnet50", num_classes=2, zero_init_last_norm=True)
    init = lambda key: model.init(key, jnp.ones((1, 32, 32, 3)))["params"]["stage1"]
    block = jax.jit(init)(jax.random.key(0))["block0"]  # the rest is not computed
    assert not block["conv2"]["norm"]["scale"].any()
    assert block["conv1"]["norm"]["scale"].all()


@pytest.mark.parametrize("name", [SLOW_TO_COMPILE[1], "small_swin"])
def test_drop_path_drops_in_training_only(name):
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    model = build(name, num_classes=5, drop_path=0.9)
    plain = build(name, num_classes=5)
    variables = random_variables(model, x.shape[1:])

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def logits(module, train, seed):
        out = module.apply(
            variables, x, train=train, rngs={"dropout": jax.random.key(seed)},
            mutable=["batch_stats"] if train else [],
        )  # fmt: skip
        return out[0]["logits"]

    np.testing.assert_array_equal(logits(model, False, 0), logits(plain, False, 1))
    assert np.abs(logits(model, True, 0) - logits(model, True, 1)).max() > 1e-3
    np.testing.assert_array_equal(logits(plain, True, 0), logits(plain, True, 1))


def test_swin_pads_maps_that_windows_do_not_divide():
    model = models.build_network("swin_t", num_classes=5)
    x = np.random.default_rng(0).standard_normal((1, 96, 64, 3)).astype(np.float32)
    out = jax.jit(model.apply)(random_variables(model, x.shape[1:]), x)
    assert out["stage1"].shape == (1, 24, 16, 96)
    assert out["features"].shape == (1, 3, 2, 768)
    with pytest.raises(ValueError, match="expected sides divisible by 32"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 100, 64, 3)))


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match=r"found 'resnet9', expected one of .*resnet8"):
        models.build_network("resnet9", num_classes=2)
    with pytest.raises(ValueError, match=r"wrn_16_1.*depht"):
        models.build_network("wrn_16_1", num_classes=2, depht=3)
    with pytest.raises(ValueError, match="depth: found 9"):
        CifarResNet(9, 2).init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_depthwise_layers_equal_grouped_convolution(
    padding, stride, dilation, kernel_size
):
    x = np.random.default_rng(0).standard_normal((2, 9, 12, 6)).astype(np.float32)
    layer = make_conv(
        6, kernel_size, groups=6, stride=stride, dilation=dilation, padding=padding,
        name="conv",
    )  # fmt: skip
    plain = layer.clone(conv_general_dilated=None)
    params = layer.init(jax.random.key(0), x)
    total = lambda params, x, module: (module.apply(params, x) ** 2).sum()
    gradients = [jax.grad(total, (0, 1))(params, x, m) for m in (layer, plain)]
    outputs = [m.apply(params, x) for m in (layer, plain)]
    chex.assert_trees_all_close(*outputs, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "bounded"), [("mobilenet_v2", True), ("cifar_mobilenet_v2", False)]
)
def test_relu6_and_relu(name, bounded):
    """The goldens' activations stay below 6, so they cannot tell these apart."""
    model = models.build_network(name, num_classes=2)
    x = 100 * np.random.default_rng(0).standard_normal((1, 32, 32, 3), np.float32)
    variables = random_variables(model, x.shape[1:])
    largest = float(jax.jit(model.apply)(variables, x)["stem"].max())
    assert largest == 6.0 if bounded else largest > 6.0
