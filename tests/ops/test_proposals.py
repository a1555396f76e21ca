"""Proposals equal torchvision's, and samples of them have its shares."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.ops.proposals import label_proposals, propose, sample_proposals
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/faster_rcnn_losses.npz")
ENDS = np.cumsum([2304, 576, 144, 36, 12])
SIZE = (96, 128)
LABEL = jax.jit(label_proposals)
DRAW = jax.jit(functools.partial(sample_proposals, count=32))
PROPOSE = jax.jit(functools.partial(propose, before=60, after=40))


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def by_level(x):
    parts = np.split(x, ENDS[:-1])
    return {f"p{i}": jnp.asarray(part) for i, part in enumerate(parts, 2)}


def first_stage(i):
    """Logits, codes and anchors of one image."""
    names = ("objectness", "deltas")
    logits, codes = (FILE[f"in/{n}"].reshape(3, 3072, -1)[i] for n in names)
    return by_level(logits[:, 0]), by_level(codes), by_level(FILE["in/anchors"])


def truth(i, rows=7):
    boxes = FILE[f"in/target{i}/boxes"]
    valid = np.arange(rows) < len(boxes)
    return jnp.asarray(np.pad(boxes, ((0, rows - len(boxes)), (0, 0)))), valid


@pytest.mark.parametrize("i", range(3))
def test_proposals(i):
    boxes, valid = PROPOSE(*first_stage(i), jnp.array(SIZE))
    assert valid.all()
    expected = FILE[f"out/rpn/proposals/{i}"]
    np.testing.assert_allclose(boxes, expected, rtol=1e-12, atol=1e-12)


def test_the_threshold_is_that_of_a_level():
    level = jnp.array([[0.0, 0, 100, 100], [0, 0, 100, 72], [0, 0, 68, 100]])
    anchors = {"p2": level, "p3": level[1:2]}
    codes = {name: jnp.zeros_like(x) for name, x in anchors.items()}
    logits = {"p2": jnp.array([3.0, 2.0, 1.0]), "p3": jnp.array([2.5])}
    find = jax.jit(functools.partial(propose, before=3, after=5))
    boxes, valid = find(logits, codes, anchors, jnp.array([100, 100]))
    np.testing.assert_allclose(boxes[valid], level[jnp.array([0, 1, 2])])


def test_fewer_than_asked_for():
    few = [
        {k: v[:4] for k, v in x.items() if k in ("p2", "p6")} for x in first_stage(0)
    ]
    few[1]["p6"] = few[1]["p6"].at[:, :2].set(1e3)  # all outside the image
    boxes, valid = jax.jit(functools.partial(propose, before=9, after=20))(
        *few, jnp.array(SIZE)
    )
    assert boxes.shape == (20, 4)
    assert 1 <= valid.sum() <= 4
    assert (boxes[~valid] == 0).all()


@pytest.mark.parametrize("i", range(3))
def test_labels_and_the_boxes_drawn(i):
    proposals = jnp.asarray(FILE[f"out/rpn/proposals/{i}"])
    boxes, matched = LABEL(proposals, np.ones(40, bool), *truth(i))
    positive, negative = (FILE[f"in/roi/{n}/{i}"] > 0 for n in ("positive", "negative"))
    # Torchvision has no rows of padding.
    assert (np.asarray(matched[len(positive) :]) == -2).all()
    drawn = np.flatnonzero(positive | negative)
    np.testing.assert_array_equal(boxes[drawn], FILE[f"out/roi/proposals/{i}"])
    labels = np.append(FILE[f"in/target{i}/labels"], 0)
    own = np.where(matched[drawn] >= 0, labels[matched[drawn]], 0)
    np.testing.assert_array_equal(own, FILE[f"out/roi/labels/{i}"])

    found = DRAW(jax.random.key(i), proposals, np.ones(40, bool), *truth(i))
    assert found.weight.sum() == 32
    assert (found.matched >= 0).sum() == min(8, (matched >= 0).sum())
    known = {tuple(box) for box in np.asarray(boxes)[np.asarray(matched) > -2]}
    assert {tuple(box) for box in np.asarray(found.boxes)} <= known


def test_no_gradient_passes():
    logits, codes, anchors = first_stage(0)
    total = lambda codes: PROPOSE(logits, codes, anchors, jnp.array(SIZE))[0].sum()
    gradient = jax.grad(total)(codes)
    assert all((x == 0).all() for x in gradient.values())


def plain(logits, codes, anchors, size, before, after):
    """Proposals by loops: the best boxes of each level, clipped and suppressed."""
    found = []
    for name in logits:
        order = np.argsort(-logits[name], kind="stable")[:before]
        kept = []
        for row in order:
            x1, y1, x2, y2 = anchors[name][row]
            dx, dy, dw, dh = codes[name][row]
            width, height = x2 - x1, y2 - y1
            x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
            w, h = width * np.exp(dw) / 2, height * np.exp(dh) / 2
            box = np.array([x - w, y - h, x + w, y + h]).clip(0, size[::-1] * 2)
            if (box[2:] - box[:2] < 1e-3).any():
                continue
            if all(overlap(box, other) <= 0.7 for _, other in kept):
                kept.append((logits[name][row], box))
        found += kept
    found.sort(key=lambda one: -one[0])
    return np.array([box for _, box in found[:after]]).reshape(-1, 4)


def overlap(a, b):
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = inner.clip(0).prod()
    return inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner)


@pytest.mark.parametrize("seed", range(8))
def test_proposals_equal_those_of_plain_loops(seed):
    """Boxes overlap in groups, some lie outside; logits tie for odd seeds."""
    rng = np.random.default_rng(seed)
    logits, codes, anchors = {}, {}, {}
    for name, count in (("p2", 30), ("p3", 12), ("p4", 3)):
        scores = rng.normal(size=count)
        # No negative zeros, which XLA sorts below zero.
        logits[name] = scores.round(0 if seed % 2 else 6) + 0.0
        corner = rng.choice([0.0, 20, 60], (count, 2)) + rng.normal(0, 3, (count, 2))
        anchors[name] = np.concatenate(
            [corner, corner + rng.uniform(8, 40, (count, 2))], 1
        )
        codes[name] = rng.normal(0, 0.1, (count, 4))
    anchors["p2"][0] += 500  # outside
    find = jax.jit(functools.partial(propose, before=20, after=15))
    arrays = [jax.tree.map(jnp.asarray, x) for x in (logits, codes, anchors)]
    boxes, valid = find(*arrays, jnp.array([64, 80]))
    expected = plain(logits, codes, anchors, (64, 80), 20, 15)
    assert valid.sum() == len(expected)
    np.testing.assert_allclose(boxes[: len(expected)], expected, atol=1e-9)
