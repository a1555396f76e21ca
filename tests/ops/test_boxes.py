"""Boxes, their codes and losses equal torchvision's, and stay finite on padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax.ops import boxes as ops
from diffkd_jax.ops.box_losses import focal, smooth_l1
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/boxes_and_losses.npz")
CODERS = {"1x1x1x1": (1, 1, 1, 1), "10x10x5x5": (10, 10, 5, 5)}
close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def read(*names):
    return [jnp.asarray(FILE[name]) for name in names]


def test_overlaps():
    a, b = read("in/a", "in/b")
    close(ops.iou(a, b), FILE["iou"])
    close(ops.giou(a[:, None], b[None]), FILE["giou"])
    # The loss that was recorded adds 1e-7 to areas.
    loss = lambda a: (1 - ops.giou(a, b)).sum()
    found, gradient = jax.jit(jax.value_and_grad(loss))(a)
    np.testing.assert_allclose(found, FILE["giou_loss"].sum(), rtol=1e-9)
    np.testing.assert_allclose(gradient, FILE["giou_loss_grad"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", CODERS)
def test_codes(name):
    a, b, code = read("in/a", "in/b", f"coder/{name}/code")
    weights = CODERS[name]
    close(ops.encode_boxes(a, b, weights), FILE[f"coder/{name}/encode_a_from_b"])
    expected = FILE[f"coder/{name}/decode_on_b"]
    close(ops.decode_boxes(code, b, weights), expected, rtol=1e-7)
    assert (code[:, 2:] / weights[2] > ops.MAX_LOG_SIDE).any()
    small = code.at[:, 2:].set(-99.0)
    sides = ops.decode_boxes(small, b, weights, clamp_below=True)
    close(sides[:, 2] - sides[:, 0], (b[:, 2] - b[:, 0]) * 16 / 1000, rtol=1e-9)


def test_distances():
    a, anchors, code = read("in/a", "linear/anchors", "linear/code")
    close(ops.encode_distances(a, anchors), FILE["linear/encode_a"])
    close(ops.decode_distances(code, anchors), FILE["linear/decode"])


def test_clip():
    a = read("in/a")[0] * 1.5 - 20  # the same numbers as in the file
    close(ops.clip(a, (90, 110)), FILE["clip"])
    close(jax.jit(ops.clip)(a, jnp.array([90, 110])), FILE["clip"])


@pytest.mark.parametrize("setting", [(0.25, 2.0), (0.5, 1.0), (-1.0, 2.0), (0.25, 0.0)])
def test_focal(setting):
    name = f"focal/{setting[0]}_{setting[1]}"
    logits, target = read("focal/logits", "focal/target")
    close(focal(logits, target, *setting), FILE[f"{name}/loss"])
    gradient = jax.jit(jax.grad(lambda x: focal(x, target, *setting).sum()))(logits)
    close(gradient, FILE[f"{name}/grad"])


@pytest.mark.parametrize(
    ("name", "beta"), [("0.1111", 1 / 9), ("1.0000", 1), ("0.0000", 0)]
)
def test_smooth_l1(name, beta):
    a, b = read("l1/a", "l1/b")
    close(smooth_l1(a - b, beta), FILE[f"smooth_l1/{name}/loss"])
    gradient = jax.jit(jax.grad(lambda a: smooth_l1(a - b, beta).sum()))(a)
    close(gradient, FILE[f"smooth_l1/{name}/grad"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_overlaps_equal_a_count_of_cells(seed):
    """Corners are whole pixels, and some boxes have no area."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 9, (2, 6, 2, 2)), 2)
    y, x = np.mgrid[:9, :9]
    boxes = corners.reshape(2, 6, 4, 1, 1)
    cells = (x >= boxes[:, :, 0]) & (x < boxes[:, :, 2])
    cells &= (y >= boxes[:, :, 1]) & (y < boxes[:, :, 3])
    both = np.einsum("myx,nyx->mn", *cells.astype(int))
    either = np.add.outer(*cells.sum((2, 3))) - both
    expected = both / np.maximum(either, 1)
    a, b = jnp.asarray(corners.reshape(2, 6, 4), float)
    close(COUNTED(a, b), expected)


COUNTED = jax.jit(ops.iou)
BOX = (1.0, 2.0, 5.0, 4.0)
ODD = {
    "nothing": (0.0, 0.0, 0.0, 0.0),
    "a point": (3.0, 3.0, 3.0, 3.0),
    "a line": (1.0, 3.0, 5.0, 3.0),
    "far away": (1e6, 1e6, 2e6, 2e6),
}


@pytest.mark.parametrize("function", [ops.iou, ops.giou, ops.encode_boxes])
def test_values_and_gradients_are_finite_without_area(function):
    boxes = jnp.array([BOX, *ODD.values()])
    each = jax.value_and_grad(lambda a, b: function(a[None], b[None]).sum(), (0, 1))
    many = len(boxes)
    found = jax.jit(jax.vmap(each))(boxes.repeat(many, 0), jnp.tile(boxes, (many, 1)))
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("size", [1e-30, 90.0, 1e4])
def test_focal_is_finite_in_float32(size):
    logits = jnp.array([-size, size, -size, size], jnp.float32)
    target = jnp.array([0, 0, 1, 1])
    value, gradient = jax.value_and_grad(lambda x: focal(x, target).sum())(logits)
    assert value.dtype == jnp.float32
    assert jnp.isfinite(gradient).all()
    assert jnp.isfinite(value)
