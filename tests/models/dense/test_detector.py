"""Options, initial values and norms of the networks of detection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.backbones.layers import ConvNorm
from diffkd_jax.models.backbones.residual import Bottleneck
from diffkd_jax.models.dense.fpn import Fpn
from diffkd_jax.models.dense.pyramid_anchors import place_anchors
from diffkd_jax.models.fold import fold
from diffkd_jax.models.model import by_path
from diffkd_jax.train.outputs.summary import count_parameters
from tests.helpers.goldens import relative_error
from tests.helpers.variables import paths, random_variables

FCOS, RETINANET = "fcos_resnet18", "retinanet_resnet18"
KINDS = [models.RetinaNet, models.Fcos]
ONE_STAGE = [n for n in models.DETECTION_MODELS if n.startswith(("retinanet", "fcos"))]


def shapes(name, size=(64, 96), channels=3, classes=5, **options):
    model = models.build_network(name, num_classes=classes, **options)
    x = jax.ShapeDtypeStruct((2, *size, channels), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), x)


@pytest.mark.parametrize("name", ONE_STAGE)
def test_outputs_for_grey_images_of_odd_sizes(name):
    out, _ = shapes(name, (75, 97), 1)
    assert {"stem", "stage1", "stage2", "stage3", "stage4", "fpn"} <= set(out)
    count = 1 if name.startswith("fcos") else 9
    levels = (
        ["p3", "p4"] if name.endswith("resnet10") else [f"p{i}" for i in range(3, 8)]
    )
    assert list(out["fpn"]) == levels
    for level, x in out["fpn"].items():
        stride = 2 ** int(level[1])
        h, w = -(-75 // stride), -(-97 // stride)
        assert x.shape[:3] == (2, h, w)
        rows = h * w * count
        assert out["class_logits"][level].shape == (2, rows, 5)
        assert out["box_codes"][level].shape == (2, rows, 4)
        assert out["anchors"][level].shape == (rows, 4)
        assert ("centreness" in out) == name.startswith("fcos")
        if "centreness" in out:
            assert out["centreness"][level].shape == (2, rows)


@pytest.mark.parametrize("name", ["retinanet_resnet10", FCOS, "faster_rcnn_resnet18"])
def test_no_layer_is_dead_without_classes(name):
    out, variables = shapes(name, classes=0)
    assert not {"class_logits", "roi", "rpn"} & set(out)
    assert set(variables["params"]) == {"backbone", "fpn"}
    assert "head" not in variables["params"]["backbone"]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("retinanet_resnet50", 34014999),
        ("fcos_resnet50", 32269600),
        ("faster_rcnn_resnet50", 41755286),
    ],
)
def test_sizes_are_those_of_torchvision(name, published):
    """torchvision does not count scales and biases of frozen norms as parameters."""
    classes = 90 if name.startswith("faster") else 91  # and the background
    _, variables = shapes(name, classes=classes)
    body = by_path(variables["params"]["backbone"])
    norms = [x for path, x in body.items() if "/norm/" in path]
    found = count_parameters(variables["params"]) - count_parameters(norms)
    assert found == published


def test_pyramids_take_in_the_levels_above_those_wanted():
    _, variables = shapes("retinanet_resnet10")
    layers = {f"lateral_p{i}" for i in (3, 4, 5)} | {"output_p3", "output_p4"}
    assert set(variables["params"]["fpn"]) == layers


def small(kind, **options):
    """A detector on the smallest backbone."""
    options = {"width": 8, "fpn_channels": 32, "tower_depth": 1} | options
    options.setdefault("levels", ("p3", "p4"))
    if kind is models.RetinaNet:
        options.setdefault("anchor_sizes", (16.0, 32.0))
    model = kind(models.MODELS["resnet10"], 5, **options)
    return model, random_variables(model, X.shape[1:])


X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values(kind):
    model, _ = small(kind, fpn_channels=64, norm_train=True)

    @jax.jit  # the rest is not drawn
    def drawn(key):
        params = model.init(key, X)["params"]
        heads = params["class_head"], params["box_head"]
        return heads, params["class_tower"]["conv0"], params["fpn"]["lateral_p3"]

    (classes, boxes), tower, pyramid = drawn(jax.random.key(0))
    for layer in (classes, boxes, tower):
        assert float(layer["kernel"].std()) == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(jax.nn.sigmoid(classes["bias"]), 0.01, rtol=1e-5)
    assert not boxes["bias"].any()
    bound = (3 / np.prod(pyramid["kernel"].shape[:3])) ** 0.5
    assert 0.98 * bound < np.abs(pyramid["kernel"]).max() <= bound
    assert not pyramid["bias"].any()


def test_norms_take_statistics_of_the_batch_by_option_only():
    model, variables = small(models.Fcos)
    before = variables["batch_stats"]

    @functools.partial(jax.jit, static_argnums=0)
    def train(model):
        found, state = model.apply(variables, X, train=True, mutable=["batch_stats"])
        return found["box_codes"], state["batch_stats"]

    still, state = train(model)
    jax.tree.map(np.testing.assert_array_equal, state, before)
    expected = jax.jit(model.apply)(variables, X)["box_codes"]
    assert relative_error(still["p3"], expected["p3"]) < 1e-6
    moved, state = train(model.clone(norm_train=True))
    assert relative_error(moved["p3"], expected["p3"]) > 0.01
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True)
    assert not [a for a, b in pairs if np.array_equal(a, b)]


@pytest.mark.parametrize("kind", KINDS)
def test_folding_is_of_the_backbone_alone(kind):
    model, variables = small(kind)
    folded = fold(model, variables, (32, 32, 3))
    left = [path for path in paths(folded) if "norm" in path]
    assert all("_tower/norm" in path for path in left)
    assert bool(left) == (kind is models.Fcos)
    assert not [path for path in paths(folded) if path.startswith("batch_stats")]
    run = jax.jit(model.apply)
    pairs = zip(*(by_path(run(v, X)).items() for v in (variables, folded)), strict=True)
    for (path, expected), (_, found) in pairs:
        assert relative_error(found, expected) < 1e-5, path


def test_bfloat16_gives_float32_heads():
    model, variables = small(models.Fcos, dtype="bfloat16")
    out = jax.eval_shape(model.apply, variables, X)
    assert out["fpn"]["p3"].dtype == jnp.bfloat16
    heads = [out[name] for name in ("class_logits", "box_codes", "centreness")]
    assert {x.dtype for x in jax.tree.leaves(heads)} == {np.dtype("float32")}


def test_anchors_that_are_not_rounded():
    scale = 2 ** (1 / 3)
    options = {"rounded_anchors": False, "scales": (1, scale)}
    model, variables = small(models.RetinaNet, **options)
    anchors = jax.jit(model.apply)(variables, X)["anchors"]["p3"]
    assert anchors.shape == (4 * 4 * 6, 4)
    np.testing.assert_allclose(
        anchors[3], np.array([-1, -1, 1, 1]) * 8 * scale, rtol=1e-6
    )


def test_points_in_the_middle_and_factors_of_levels():
    model, variables = small(models.Fcos, point_offset=0.5, level_scales=True)
    run = jax.jit(model.apply)
    out = run(variables, X)
    assert out["anchors"]["p3"][:2].tolist() == [[0, 0, 8, 8], [8, 0, 16, 8]]
    params = dict(variables["params"])
    params["scale_p3"], params["scale_p4"] = np.float32(1), np.float32(2)
    double = run(variables | {"params": params}, X)["box_codes"]
    params["scale_p4"] = np.float32(1)
    single = run(variables | {"params": params}, X)["box_codes"]
    np.testing.assert_array_equal(double["p3"], single["p3"])
    np.testing.assert_array_equal(double["p4"], 2 * single["p4"])
    assert single["p4"].min() == 0 < single["p4"].max()


def test_relu_before_the_coarsest_level_is_an_option():
    maps = {"p5": X[:, :8, :8]}
    net = Fpn(("p5", "p6", "p7"), 8)
    variables = net.init(jax.random.key(0), maps)
    found, other = (
        net.clone(relu_before_extra=relu).apply(variables, maps)
        for relu in (True, False)
    )
    np.testing.assert_array_equal(found["p6"], other["p6"])
    assert relative_error(other["p7"], found["p7"]) > 0.01


@pytest.mark.parametrize("stride_in_first", [True, False])
def test_strides_as_in_caffe(stride_in_first):
    """The first convolution skips every second position, as the shortcut does."""
    layer = functools.partial(ConvNorm, train=False)
    block = Bottleneck(8, layer, 2, stride_in_first=stride_in_first)
    x = X[:1, :6, :6]
    variables = block.init(jax.random.key(0), x)
    influence = jax.grad(lambda x: jnp.square(block.apply(variables, x)).sum())(x)
    assert influence[:, ::2, ::2].any()
    assert influence[:, 1::2, 1::2].any() != stride_in_first


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (FCOS, {"levels": ("p3", "p5")}, r"levels: found \('p3', 'p5'\), expected"),
        (FCOS, {"levels": ("p6", "p7")}, "the first of p2 to p5"),
        (FCOS, {"levels": ("p8",)}, r"options.levels: found .* one of \['p2', 'p3'"),
        (FCOS, {"levels": ()}, "options.levels: found .*1 to 16 values"),
        (FCOS, {"levels": 3}, "options.levels: found 3, expected 1 to 16 values"),
        (FCOS, {"fpn_channels": 40}, "fpn_channels: found 40, expected a multiple"),
        (FCOS, {"extra": "p4"}, r"extra: found 'p4', expected one of \['p5', 'c5'"),
        (FCOS, {"tower_depth": 99}, "tower_depth: found 99, expected a whole number"),
        (FCOS, {"stride_in_first": True}, "stride_in_first: found it without"),
        (FCOS, {"ratios": (1.0,)}, "found 'ratios', expected any of"),
        (RETINANET, {"levels": ["p3"]}, "anchor_sizes: found 5 of them"),
        (RETINANET, {"scales": "ab"}, "scales: found 'ab', expected 1 to 16 values"),
        (RETINANET, {"ratios": (0, 1)}, r"ratios: found \(0, 1\), expected"),
        (
            RETINANET,
            {"scales": (-1.0,)},
            "scales: found .* expected a number above 0",
        ),
    ],
)
def test_options_that_a_network_cannot_have(name, options, message):
    with pytest.raises(ValueError, match=message):
        shapes(name, **options)


@pytest.mark.parametrize("name", ["retinanet_resnet18", "fcos_resnet18"])
def test_positions_lie_a_nominal_stride_apart_where_asked(name):
    """On 800x1344 the maps of p6 and p7 cover more than the image."""
    sizes = {"p6": (13, 21), "p7": (7, 11)}
    own = {"point_offset": 0.5} if name == FCOS else {"rounded_anchors": False}
    model = models.build_network(name, num_classes=3, nominal_strides=True, **own)
    for level, (height, width) in sizes.items():
        stride = 2 ** int(level[1])
        if name == FCOS:
            found = model._anchors(level, (height, width), (800, 1344))
        else:
            maps = {level: np.zeros((1, height, width, 1))}
            found = place_anchors(model, maps, (800, 1344), [[32]])[level][1::3]
        centre = (found[:, :2] + found[:, 2:]) / 2
        offset = 0.5 if name == FCOS else 0.0
        expected = [
            ((x + offset) * stride, (y + offset) * stride)
            for y in range(height)
            for x in range(width)
        ]
        np.testing.assert_allclose(centre, expected, atol=1e-3)
