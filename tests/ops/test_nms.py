"""Suppression keeps what torchvision keeps, in its order, ties included."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax.ops.nms import greedy, keep_mask
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/batched_nms.npz")
# One shape, so that two programs serve all cases.
ROWS = 1104
GREEDY = jax.jit(functools.partial(greedy, count=ROWS))
KEEP = jax.jit(keep_mask)
FEW = 12
FEW_GREEDY = jax.jit(functools.partial(greedy, count=FEW))


def case(i):
    names = ("boxes", "scores", "classes", "threshold", "keep")
    return [FILE[f"{i}/{name}"] for name in names]


def by_greedy(boxes, scores, classes, threshold, kept=GREEDY, rows=ROWS):
    free = rows - len(boxes)
    rows, valid = kept(
        np.pad(boxes, ((0, free), (0, 0))),
        np.pad(scores, (0, free), constant_values=-np.inf),
        np.pad(classes, (0, free)),
        threshold,
    )
    return np.asarray(rows)[np.asarray(valid)]


def by_mask(boxes, scores, classes, threshold, rows=ROWS):
    order, free = np.argsort(-scores, kind="stable"), rows - len(boxes)
    kept = KEEP(
        np.pad(boxes[order], ((0, free), (0, 0))),
        np.pad(classes[order], (0, free)),
        np.arange(rows) < len(boxes),
        threshold,
    )
    return order[np.flatnonzero(kept)]


@pytest.mark.parametrize("form", [by_greedy, by_mask])
def test_all_cases(form):
    for i in range(24):
        *given, keep = case(i)
        found = form(*given)
        if i % 3 == 0:
            # Boxes of equal scores come in the order of their rows.
            scores = given[1]
            np.testing.assert_array_equal(scores[found], scores[keep], err_msg=str(i))
            assert all(np.lexsort((found, -scores[found])) == np.arange(len(found)))
            found, keep = np.sort(found), np.sort(keep)
        np.testing.assert_array_equal(found, keep, err_msg=str(i))


def test_the_first_of_many():
    boxes, scores, classes, threshold, keep = case(20)
    rows, valid = greedy(boxes, scores, classes, threshold, 7)
    assert valid.all()
    np.testing.assert_array_equal(rows, keep[:7])


def kept_by_loops(boxes, scores, classes, threshold):
    order, kept = np.argsort(-scores, kind="stable"), []
    for i in order:
        if scores[i] == -np.inf:
            continue
        for j in kept:
            low, high = (
                np.maximum(boxes[i, :2], boxes[j, :2]),
                np.minimum(boxes[i, 2:], boxes[j, 2:]),
            )
            shared = np.prod(np.maximum(high - low, 0))
            areas = sum(np.prod(boxes[k, 2:] - boxes[k, :2]) for k in (i, j))
            if classes[i] == classes[j] and shared > threshold * (areas - shared):
                break
        else:
            kept.append(i)
    return kept


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_random_boxes(seed, share):
    """Some scores are equal, some boxes have no area, and there may be no box."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, 9, (FEW, 2, 2)), 1).astype(np.float32)
    scores = rng.choice([0.25, 0.5, 1], FEW).astype(np.float32)
    scores[rng.random(FEW) < share] = -np.inf
    given = corners.reshape(FEW, 4), scores, rng.integers(0, 2, FEW), 0.375
    expected = kept_by_loops(*given)
    found = by_greedy(*given, FEW_GREEDY, FEW)
    np.testing.assert_array_equal(found, expected)
    real = scores > -np.inf
    masked = by_mask(*(x[real] for x in given[:3]), 0.375, rows=FEW)
    np.testing.assert_array_equal(np.flatnonzero(real)[masked], expected)


def test_scores_that_are_no_numbers_neither_count_nor_remove():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.0]], np.float32)
    rows, valid = greedy(boxes, np.float32([np.nan, 0.1]), np.zeros(2, int), 0.5, 2)
    assert rows[valid].tolist() == [1]
    assert valid.tolist() == [True, False]
