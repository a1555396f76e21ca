"""Anchors equal torchvision's, in their order."""

import numpy as np
import pytest

from diffkd_jax.ops.anchors import grid_anchors, points
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/anchors_and_matcher.npz")
IMAGE = (160, 192)
RATIOS = (0.5, 1.0, 2.0)


def maps(first, count):
    return [tuple(-(-side // (first << i)) for side in IMAGE) for i in range(count)]


def octaves(size):
    return [int(size * 2 ** (i / 3)) for i in range(3)]


def test_retinanet():
    found = [
        grid_anchors(m, IMAGE, octaves(32 << i), RATIOS)
        for i, m in enumerate(maps(8, 5))
    ]
    np.testing.assert_array_equal(np.concatenate(found), FILE["retinanet/anchors"])


def test_faster_rcnn():
    found = [
        grid_anchors(m, IMAGE, [32 << i], RATIOS) for i, m in enumerate(maps(4, 5))
    ]
    expected = FILE["faster_rcnn/anchors"]
    np.testing.assert_array_equal(np.concatenate(found)[::7], expected)


def test_points():
    found = [points(m, IMAGE, side=8 << i) for i, m in enumerate(maps(8, 5))]
    np.testing.assert_array_equal(np.concatenate(found), FILE["fcos/anchors"])
    np.testing.assert_array_equal(points((20, 24), IMAGE), found[0])
    middle = points((20, 24), IMAGE, offset=0.5)
    np.testing.assert_array_equal(middle, found[0] + 4)


def test_unrounded_anchors_have_the_area_they_are_for():
    """Sides are 4 strides times an octave, ratios height to width (mmdetection)."""
    sizes = [32 * 2 ** (i / 3) for i in range(3)]
    found = grid_anchors((2, 3), (16, 24), sizes, RATIOS, rounded=False)
    sides = (found[:, 2:] - found[:, :2]).reshape(6, 3, 3, 2)
    expected = np.broadcast_to(np.square(sizes), (6, 3, 3))
    np.testing.assert_allclose(sides.prod(-1), expected, rtol=1e-5)
    ratio = sides[..., 1] / sides[..., 0]
    np.testing.assert_allclose(
        ratio, np.tile(np.reshape(RATIOS, (3, 1)), 3)[None].repeat(6, 0), rtol=1e-5
    )
    assert not np.array_equal(found, np.round(found))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 2), (16, 16), (), (1,)), r"sizes: found \(\), expected one or more"),
        (((2, 2), (16, 16), (8,), (0,)), r"ratios: found \(0,\), expected"),
        (((0, 2), (16, 16), (8,), (1,)), r"map_size: found \(0, 2\), expected 1 to"),
        (((2, 20), (16, 16), (8,), (1,)), r"map_size: found \(2, 20\), expected 1 to"),
    ],
)
def test_what_makes_no_anchors_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_anchors(*arguments)
