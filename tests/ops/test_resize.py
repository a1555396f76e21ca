"""Resizing and pooling equal PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.ops.resize import adaptive_mean, bilinear, nearest
from tests.helpers.goldens import GOLDEN


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "dense" / "resize.npz") as z:
        return {k: v for k, v in z.items() if k != "meta"}


def nhwc(x):
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def close(found, expected):
    np.testing.assert_allclose(found, nhwc(expected), rtol=1e-6, atol=1e-6)


def sizes(golden, prefix):
    names = [k for k in golden if k.startswith(prefix)]
    assert len(names) == 6
    return [(golden[k], tuple(map(int, k.split("/")[-1].split("x")))) for k in names]


@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear(golden, align_corners):
    x = nhwc(golden["in/x"])
    for expected, size in sizes(golden, f"bilinear/align_corners_{align_corners}"):
        close(bilinear(x, size, align_corners=align_corners), expected)


def test_nearest(golden):
    for expected, size in sizes(golden, "nearest"):
        found = nearest(nhwc(golden["in/x"]), size)
        np.testing.assert_array_equal(found, nhwc(expected))


def test_a_single_pixel_fills_the_map(golden):
    expected = golden["bilinear/from_1x1/7x9"]
    pixel = nhwc(golden["in/x"][:, :, :1, :1])
    np.testing.assert_allclose(nhwc(expected)[:, :1, :1], pixel)
    for align_corners in (True, False):
        close(bilinear(pixel, (7, 9), align_corners=align_corners), expected)


def test_gradient(golden):
    total = lambda x: (bilinear(x, (17, 25), align_corners=True) ** 2).sum()
    expected = golden["grad/align_corners_True_17x25_sum_of_squares"]
    found = jax.grad(total)(nhwc(golden["in/x"]))
    np.testing.assert_allclose(found, nhwc(expected), rtol=1e-5, atol=1e-5)


def test_bins_overlap(golden):
    for k in (1, 2, 3, 6):
        found = adaptive_mean(nhwc(golden["in/x"]), (k, k))
        close(found, golden[f"adaptive_average_pool/{k}"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes_are_kept_and_sums_are_float32(dtype):
    x = jnp.ones((1, 40, 40, 1), dtype)
    for y in (adaptive_mean(x, (1, 1)), bilinear(x, (7, 3), align_corners=False)):
        assert y.dtype == dtype
        np.testing.assert_allclose(y.astype(jnp.float32), 1, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 25])
@pytest.mark.parametrize("m", [1, 5, 24])
def test_weights_are_means(n, m):
    """A constant map stays constant, corners included, for each pair of sizes."""
    x = jnp.arange(n, dtype=jnp.float32).reshape(1, n, 1, 1)
    found = bilinear(x, (m, 1), align_corners=True)
    assert float(found[0, 0, 0, 0]) == 0
    if m > 1:
        assert float(found[0, -1, 0, 0]) == n - 1
    one = jnp.ones_like(x)
    for align_corners in (True, False):
        np.testing.assert_allclose(
            bilinear(one, (m, 1), align_corners=align_corners), 1, rtol=1e-6
        )
    np.testing.assert_allclose(adaptive_mean(one, (m, 1)), 1, rtol=1e-6)


def test_what_is_no_map_or_size_is_refused():
    x = jnp.ones((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"x: found shape \(2, 2, 1\), expected"):
        nearest(x[0], (2, 2))
    with pytest.raises(ValueError, match=r"size: found \(2, 0\), expected \(h, w\)"):
        bilinear(x, (2, 0), align_corners=True)
