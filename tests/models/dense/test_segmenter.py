"""Options, initial values, dropout and files of the networks of segmentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from tests.helpers.goldens import relative_error
from tests.helpers.variables import random_variables


@pytest.mark.parametrize("name", models.SEGMENTATION_MODELS)
def test_outputs_for_grey_images(name):
    model = models.build_network(name, num_classes=7)
    x = jax.ShapeDtypeStruct((2, 65, 48, 1), jnp.float32)
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    small = name.removeprefix("deeplabv3_") in models.CIFAR_MODELS
    stride = 4 if small else 8
    size = (2, -(-65 // stride), 48 // stride)
    assert out["logits"].shape == (*size, 7)
    assert out["features"].shape[:3] == size
    assert {"stem", "stage1", "stage2", "stage3"} <= set(out)
    assert "pooled" not in out
    if "aux_logits" in out:
        assert out["aux_logits"].shape == out["logits"].shape


@pytest.mark.parametrize("kind", ["aspp", "pyramid"])
def test_initial_values(kind):
    """Heads as PyTorch draws them by default, the backbone by He's fan-out."""
    make = functools.partial(models.Segmenter, models.MODELS["resnet8"], kind)
    model = make(num_classes=64, aspp_channels=64, rates=(2, 4, 6))
    inner = {"aspp": "branch1", "pyramid": "level1"}[kind]

    @jax.jit  # the rest is not drawn
    def drawn(key):
        params = model.init(key, jnp.ones((1, 8, 8, 3)))["params"]
        heads = params[kind][inner]["conv"], params["block"]["conv"], params["head"]
        return params["backbone"]["stage3"]["block0"]["conv1"]["conv"], heads

    body, heads = drawn(jax.random.key(0))
    spread = float(body["kernel"].std())
    assert spread == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    for layer in heads:
        kernel = layer["kernel"]
        bound = np.prod(kernel.shape[:3]) ** -0.5
        assert 0.98 * bound < np.abs(kernel).max() <= bound
        assert float(kernel.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        if "bias" in layer:
            assert 0.5 * bound < np.abs(layer["bias"]).max() <= bound


def small(**options):
    return models.build_network("deeplabv3_resnet8", num_classes=5, aux=True, **options)


def test_dropout_is_for_training():
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    model = small()
    variables = random_variables(model, x.shape[1:])

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def outputs(module, train, seed):
        rngs = {"dropout": jax.random.key(seed)}
        mutable = ["batch_stats"] if train else []
        return module.apply(variables, x, train=train, rngs=rngs, mutable=mutable)[0]

    differ = lambda a, b: {k for k in a if not np.array_equal(a[k], b[k])}
    assert differ(outputs(model, False, 0), outputs(model, False, 1)) == set()
    for option, changed in {
        "aspp_dropout": {"features", "logits"},
        "head_dropout": {"logits"},
        "aux_dropout": {"aux_logits"},
    }.items():
        off = dict.fromkeys(("aspp_dropout", "head_dropout", "aux_dropout"), 0.0)
        one = small(**off | {option: 0.5})
        assert differ(outputs(one, True, 0), outputs(one, True, 1)) == changed


def test_one_image_is_no_batch():
    """The global mean of one image is a single value for each channel."""
    x = jnp.ones((1, 16, 16, 3))
    model = small()
    variables = random_variables(model, x.shape[1:])
    with pytest.raises(ValueError, match=r"one value per channel.*larger batch"):
        jax.eval_shape(
            lambda: model.apply(variables, x, train=True, mutable=["batch_stats"])
        )


def test_bfloat16_gives_float32_logits():
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    model, exact = small(dtype=jnp.bfloat16), small()
    variables = random_variables(model, x.shape[1:])
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    found, expected = (jax.jit(m.apply)(variables, x) for m in (model, exact))
    assert found["features"].dtype == jnp.bfloat16
    for name in ("logits", "aux_logits"):
        assert found[name].dtype == jnp.float32
        assert relative_error(found[name], expected[name]) < 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv3_resnet18", {"width": 0.5}, "found 'width', expected any of"),
        ("deeplabv3_resnet8", {"deep_stem": True}, "found 'deep_stem', expected any"),
        ("pspnet_resnet18", {"rates": (1, 2, 3)}, "found 'rates', expected any of"),
        ("deeplabv3_resnet18", {"rates": (1, 2)}, r"rates: found \(1, 2\), expected 3"),
        ("deeplabv3_resnet8", {"channels": (8, 8)}, r"channels: found \(8, 8\), exp"),
        (
            "deeplabv3_mobilenet_v2",
            {"width": 9},
            "width: found 9, expected a number above 0 and at most 8",
        ),
        ("deeplabv3_resnet18", {"aux": 1}, "aux: found 1, expected true or false"),
        ("deeplabv3_resnet18", {"kind": "pyramid"}, "found 'kind', expected any of"),
    ],
)
def test_options_that_a_network_does_not_have(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build_network(name, num_classes=5, **options)


@pytest.mark.parametrize(
    ("name", "options", "size", "channels"),
    [
        ("deeplabv3_resnet8", {"channels": [4, 4, 8, 12], "rates": [1, 2, 3]}, 16, 12),
        ("deeplabv3_mobilenet_v2", {"width": 0.5, "output_stride": 16}, 4, 160),
        ("pspnet_resnet18", {"output_stride": 32, "aspp_channels": 24}, 2, 512),
    ],
)
def test_options_reach_the_backbone(name, options, size, channels):
    model = models.build_network(name, num_classes=5, **options)
    x = jnp.ones((1, 64, 64, 3))
    out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    last = max(k for k in out if k.startswith("stage"))
    assert out[last].shape == (1, size, size, channels)
    assert out["logits"].shape == (1, size, size, 5)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "swin_t"),
        *("resnet8", "wrn_16_1", "vgg8", "cifar_mobilenet_v2", "shufflenet_v1"),
        *("shufflenet_v2", "deeplabv3_resnet8", "pspnet_resnet18"),
    ],
)
def test_no_layer_is_dead_without_classes(name):
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = models.build_network(name, num_classes=0)
    out, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert "logits" not in out
    assert not {"head", "last_conv", "aux_head"} & set(variables["params"])
    assert out["features"].ndim == 4
