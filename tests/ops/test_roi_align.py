"""Boxes are pooled as torchvision pools them, and so are gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.ops.roi_align import level_of, pool_boxes, roi_align
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/roi_align.npz")
PYRAMID = np.load(GOLDEN / "dense/multiscale_roi_align.npz")
X = jnp.asarray(FILE["in/x"].transpose(0, 2, 3, 1))
ROIS = jnp.asarray(FILE["in/rois"])


def pooled(x, size, ratio, aligned):
    """Boxes of all images, each pooled from its own image."""
    one = functools.partial(
        roi_align,
        scale=1 / 8,
        size=size,
        sampling_ratio=ratio,
        aligned=aligned,
        max_points=12,  # as many as the largest box here has cells a bin
    )
    at = ROIS[:, 0].astype(int)
    return jax.vmap(lambda i, box: one(x[i], box[None])[0])(at, ROIS[:, 1:])


@pytest.mark.parametrize("ratio", ["adaptive", 1, 2, 3])
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(7, 7), (2, 3)])
def test_pooling_and_its_gradient(ratio, aligned, size):
    name = f"ratio_{ratio}/aligned_{aligned}/{size[0]}x{size[1]}"
    expected = FILE[f"out/{name}"]
    weights = np.random.default_rng(5).standard_normal(expected.shape)
    weights = jnp.asarray(weights.transpose(0, 2, 3, 1), jnp.float32)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def both(x):
        found = pooled(x, size, 0 if ratio == "adaptive" else ratio, aligned)
        return (found * weights).sum(), found

    gradient, found = both(X)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(found, expected.transpose(0, 2, 3, 1))
    close(gradient, FILE[f"grad/{name}"].transpose(0, 2, 3, 1))


def test_levels_of_a_pyramid():
    boxes = jnp.stack([PYRAMID[f"in/boxes/{i}"] for i in range(2)])
    levels = [f"p{i}" for i in range(2, 6)]
    maps = {k: jnp.asarray(PYRAMID[f"in/{k}"].transpose(0, 2, 3, 1)) for k in levels}
    found = jax.jit(jax.vmap(pool_boxes))(maps, boxes).reshape(18, 7, 7, 3)
    expected = PYRAMID["out/pooled"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    level = level_of(boxes.reshape(-1, 4), 2, 5)
    np.testing.assert_array_equal(level, PYRAMID["out/level"])


@pytest.mark.parametrize("aligned", [False, True])
def test_padding_pools_finite_numbers_and_gradients(aligned):
    pool = functools.partial(roi_align, scale=0.125, size=(2, 2), aligned=aligned)
    total = lambda x, boxes: pool(x, boxes).sum()
    boxes = jnp.array([[0.0, 0, 0, 0], [1e9, 1e9, 2e9, 2e9], [5, 5, 3, 3]])
    value, gradient = jax.jit(jax.value_and_grad(total, (0, 1)))(X[0], boxes)
    assert np.isfinite(value)
    assert np.isfinite(gradient[0]).all()
    assert (gradient[1] == 0).all()


def test_half_precision_is_summed_in_more():
    x = jnp.ones((8, 8, 2), jnp.bfloat16)
    box = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    pool = jax.jit(functools.partial(roi_align, scale=1.0, sampling_ratio=3))
    found = pool(x, box)
    assert found.dtype == jnp.bfloat16
    assert (found == 1).all()


def test_what_is_no_pyramid_or_size_is_refused():
    box = jnp.zeros((1, 4))
    with pytest.raises(ValueError, match=r"features: found \['p2', 'pool'\], expected"):
        pool_boxes({"p2": X[0], "pool": X[0]}, box)
    with pytest.raises(
        ValueError, match=r"features: found .*, expected .* without gaps"
    ):
        pool_boxes({"p2": X[0], "p4": X[0]}, box)
    with pytest.raises(ValueError, match=r"features: found \(3, 17, 23, 4\), expected"):
        roi_align(X, box, scale=1.0)
    with pytest.raises(ValueError, match=r"size, .*: found \(0, 7\), 2, 4, expected"):
        roi_align(X[0], box, scale=1.0, size=(0, 7))


@pytest.mark.parametrize("aligned", [False, True])
def test_pooling_equals_plain_loops(aligned):
    """Boxes inside, across the border, outside, and without area."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 9, 2))
    boxes = np.array(
        [[3.0, 2, 30, 20], [-9, -5, 12, 50], [90, 90, 99, 99], [7, 7, 7, 7]]
    )
    found = roi_align(
        jnp.asarray(x, jnp.float32),
        jnp.asarray(boxes, jnp.float32),
        scale=1 / 4,
        size=(2, 3),
        sampling_ratio=2,
        aligned=aligned,
    )

    def at(y, column):
        if not (-1 <= y <= 6 and -1 <= column <= 9):
            return np.zeros(2)
        y, column = max(y, 0.0), max(column, 0.0)
        top, left = min(int(y), 5), min(int(column), 8)
        low, right = min(top + 1, 5), min(left + 1, 8)
        v, u = (y - top if top < 5 else 0.0), (column - left if left < 8 else 0.0)
        upper = x[top, left] * (1 - u) + x[top, right] * u
        return upper * (1 - v) + (x[low, left] * (1 - u) + x[low, right] * u) * v

    for i, box in enumerate(boxes):
        x1, y1, x2, y2 = box / 4 - 0.5 * aligned
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        for row in range(2):
            for column in range(3):
                points = [
                    at(
                        y1 + (row + (a + 0.5) / 2) * height / 2,
                        x1 + (column + (b + 0.5) / 2) * width / 3,
                    )
                    for a in range(2)
                    for b in range(2)
                ]
                np.testing.assert_allclose(
                    found[i, row, column], np.mean(points, 0), atol=1e-5
                )
