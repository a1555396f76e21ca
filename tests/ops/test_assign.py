"""Assignments equal torchvision's and those of a count in plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax.ops.anchors import points
from diffkd_jax.ops.assign import assign_fcos, match, sample
from diffkd_jax.ops.boxes import iou
from tests.helpers.goldens import GOLDEN

DENSE = GOLDEN / "dense"
SETTINGS = [(0.7, 0.3, True), (0.5, 0.4, True), (0.5, 0.5, False)]
M, N = 5, 24


def padded(boxes, rows=9):
    valid = np.arange(rows) < len(boxes)
    return jnp.asarray(np.pad(boxes, ((0, rows - len(boxes)), (0, 0)))), valid


@pytest.mark.parametrize("setting", SETTINGS)
def test_matches_of_anchors_and_of_ties(setting):
    name = f"{setting[0]}_{setting[1]}_{setting[2]}"
    with np.load(DENSE / "anchors_and_matcher.npz") as file:
        boxes, valid = padded(file["matcher/gt"])
        found = compiled(*setting)(iou(boxes, file["retinanet/anchors"]), valid)
        np.testing.assert_array_equal(found, file[f"matcher/{name}"])
        quality = jnp.asarray(file["ties/quality"])
        found = compiled(*setting)(quality, np.ones(len(quality), bool))
        np.testing.assert_array_equal(found, file[f"ties/{name}"])
        # Rows of padding change nothing, wherever they stand.
        odd = jnp.insert(quality, np.array([0, 2, 5]), 1.0, 0)
        valid = np.array([False, True, True, False, True, True, True, False])
        place = np.array([1, 2, 4, 5, 6])
        expected = np.where(found >= 0, place[np.maximum(found, 0)], found)
        np.testing.assert_array_equal(compiled(*setting)(odd, valid), expected)


def test_matches_of_retinanet():
    with jax.enable_x64(True), np.load(DENSE / "retinanet_losses.npz") as file:
        for i in range(3):
            boxes, valid = padded(file[f"in/target{i}/boxes"])
            quality = iou(boxes, jnp.asarray(file["in/anchors"]))
            found = compiled(0.5, 0.4, True)(quality, valid)
            np.testing.assert_array_equal(found, file["out/matched"][i])


def test_points_of_fcos():
    with jax.enable_x64(True), np.load(DENSE / "fcos_losses.npz") as file:
        ends = np.cumsum(file["in/level_sizes"].prod(-1))
        levels = np.split(file["in/anchors"], ends[:-1])
        for i in range(3):
            boxes, valid = padded(file[f"in/target{i}/boxes"])
            found = jax.jit(assign_fcos)(boxes, valid, levels)
            np.testing.assert_array_equal(found, file["out/matched"][i])
            # mmdetection states the same ranges for each level.
            ranges = [(0, 8), (4, 8), (4, 8), (4, 8), (4, np.inf)]
            given = functools.partial(assign_fcos, ranges=ranges)
            again = jax.jit(given)(boxes, valid, levels)
            np.testing.assert_array_equal(found, again)


def matched_by_loops(quality, valid, high, low, low_quality, to_truth):
    found = []
    for column in quality.T:
        best = max(column[valid], default=-1)
        own = next((i for i in np.flatnonzero(valid) if column[i] == best), -1)
        value = own if best >= high else -2 if best >= low else -1
        for i in np.flatnonzero(valid) if low_quality else ():
            if column[i] == quality[i].max():
                if to_truth is None:
                    value = own
                elif column[i] >= to_truth:
                    value = i
        found.append(value)
    return found


@functools.cache
def compiled(*setting):
    return jax.jit(lambda quality, valid: match(quality, valid, *setting))


COUNTED = [
    (0.75, 0.5, True, None),
    (0.5, 0.5, False, None),
    (0.75, 0.5, True, 0.5),
    (0.75, 0.5, True, 0.0),
]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(COUNTED))
def test_matches_equal_a_count(seed, setting):
    """IoUs are quarters, so most are ties; some or all rows are padding."""
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, 5, (M, N)).astype(np.float32) / 4
    quality *= rng.choice([0, 0.5, 1], (M, 1))
    valid = rng.random(M) < rng.choice([0, 0.5, 1])
    found = compiled(*setting)(quality, valid)
    np.testing.assert_array_equal(found, matched_by_loops(quality, valid, *setting))


LEVELS = [points((6, 6), (24, 24)), points((3, 3), (24, 24))]


def fcos_by_loops(boxes, valid, radius):
    found = []
    for level, anchors in enumerate(LEVELS):
        least, most = ((0, 8), (4, np.inf))[level]
        for box in anchors:
            stride, x, y = box[2] - box[0], (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            fits = []
            for row, (x1, y1, x2, y2) in enumerate(boxes):
                sides = (x - x1, y - y1, x2 - x, y2 - y)
                near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
                far = max(sides)
                inside = min(sides) > 0 and near < radius * stride
                if valid[row] and inside and least * stride < far < most * stride:
                    fits.append(((x2 - x1) * (y2 - y1), row))
            found.append(min(fits)[1] if fits else -1)
    return found


FCOS = {
    radius: jax.jit(lambda b, v, r=radius: assign_fcos(b, v, LEVELS, radius=r))
    for radius in (1.5, np.inf)
}


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.5, np.inf]))
def test_points_equal_a_count(seed, radius):
    """Corners are whole pixels; some boxes lie outside the image or have no area."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(-8, 40, (M, 2, 2)), 1)
    boxes = corners.reshape(M, 4).astype(np.float32)
    valid = rng.random(M) < rng.choice([0, 0.5, 1])
    found = FCOS[radius](boxes, valid)
    np.testing.assert_array_equal(found, fcos_by_loops(boxes, valid, radius))


def test_areas_that_differ_by_little_are_told_apart():
    """1e8 minus an area of 1,000 is the same float32 for areas up to 8 apart."""
    boxes = jnp.array([[-20.0, -20.0, 20.2, 20.0], [-20.0, -20.0, 20.0, 20.0]])
    level = [jnp.array([[-4.0, -4.0, 4.0, 4.0]])]
    found = jax.jit(assign_fcos)(boxes, jnp.array([True, True]), level)
    assert found.tolist() == [1]


def test_ranges_are_given_for_each_level():
    with pytest.raises(ValueError, match="ranges: found 1, expected 2, one for each"):
        assign_fcos(jnp.zeros((1, 4)), jnp.zeros(1, bool), LEVELS, ranges=[(0, 8)])


DRAW = jax.jit(lambda key, matched: sample(key, matched, 16, 0.25))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_samples_have_the_shares_asked_for(seed, share):
    rng = np.random.default_rng(seed)
    matched = np.where(rng.random(N) < share, rng.integers(0, 3, N), -1)
    matched[rng.random(N) < rng.choice([0, 0.5, 0.9])] = -2
    rows, weight = (np.asarray(x) for x in DRAW(jax.random.key(seed), matched))
    drawn = rows[weight > 0]
    assert len(set(drawn)) == len(drawn)
    positive = min((matched >= 0).sum(), 4)
    assert (matched[drawn[:positive]] >= 0).all()
    assert (matched[drawn[positive:]] == -1).all()
    assert len(drawn) == positive + min((matched == -1).sum(), 16 - positive)
    assert set(weight) <= {0.0, 1.0}


def test_samples_are_drawn_alike_and_from_the_key():
    matched = jnp.array([0] * 8 + [-1] * 12 + [-2] * 4)
    keys = jax.random.split(jax.random.key(0), 4000)
    rows, _ = jax.vmap(lambda key: DRAW(key, matched))(keys)
    counts = np.bincount(np.ravel(rows), minlength=N)
    # Half of the 8 positives are drawn, and all 12 others.
    np.testing.assert_allclose(counts[:8], 2000, rtol=0.1)
    assert (counts[8:20] == 4000).all()
    np.testing.assert_array_equal(DRAW(keys[0], matched)[0], rows[0])
    assert (rows[0] != rows[1]).any()


def test_more_are_asked_for_than_there_are():
    draw = jax.jit(lambda key, matched: sample(key, matched, 6, 0.5))
    rows, weight = draw(jax.random.key(0), jnp.array([-1, 2, -2]))
    assert rows.tolist() == [1, 0, 0, 0, 0, 0]
    assert weight.tolist() == [1, 1, 0, 0, 0, 0]
