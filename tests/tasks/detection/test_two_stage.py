"""Losses and detections of two stages equal torchvision's for the same samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.ops.assign import match
from diffkd_jax.ops.boxes import iou
from diffkd_jax.ops.proposals import sample_anchors
from diffkd_jax.tasks.detection.one_stage import join_levels
from diffkd_jax.tasks.detection.selection import Selection
from diffkd_jax.tasks.detection.two_stage import (
    detect,
    first_losses,
    losses,
    second_losses,
)
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/faster_rcnn_losses.npz")
ENDS = np.cumsum([2304, 576, 144, 36, 12])
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def target(rows=7):
    many = [len(FILE[f"in/target{i}/boxes"]) for i in range(3)]
    boxes, classes = np.zeros((3, rows, 4)), np.zeros((3, rows), np.int32)
    for i, n in enumerate(many):
        boxes[i, :n] = FILE[f"in/target{i}/boxes"]
        classes[i, :n] = FILE[f"in/target{i}/labels"] - 1
    valid = np.arange(rows) < np.array(many)[:, None]
    found = {"boxes": boxes, "classes": classes, "valid": valid}
    return {name: jnp.asarray(x) for name, x in found.items()}


def rpn():
    logits = FILE["in/objectness"].reshape(3, -1)
    codes = FILE["in/deltas"].reshape(3, -1, 4)
    cut = lambda x, axis: {
        f"p{i}": jnp.asarray(part)
        for i, part in enumerate(np.split(x, ENDS[:-1], axis), 2)
    }
    return {
        "objectness": cut(logits, 1),
        "box_codes": cut(codes, 1),
        "anchors": cut(FILE["in/anchors"], 0),
    }


def roi(own):
    """The recorded samples of proposals, with the object of each."""
    boxes = np.stack([FILE[f"out/roi/proposals/{i}"] for i in range(3)])
    labels = np.stack([FILE[f"out/roi/labels/{i}"] for i in range(3)])
    assign = lambda b, p, v: match(iou(b, p), v, 0.5, 0.5, False)
    matched = jax.jit(jax.vmap(assign))(own["boxes"], jnp.asarray(boxes), own["valid"])
    matched = np.where(labels > 0, matched, -1)
    assert ((matched >= 0) == (labels > 0)).all()
    return {
        "boxes": jnp.asarray(boxes),
        "valid": jnp.ones((3, 32), bool),
        "class_logits": jnp.asarray(FILE["in/roi/class_logits"].reshape(3, 32, 5)),
        "box_codes": jnp.asarray(FILE["in/roi/box_regression"].reshape(3, 32, 20)),
        "matched": jnp.asarray(matched),
        "weight": jnp.ones((3, 32)),
    }


def test_losses_of_the_first_stage():
    own = target()
    given = rpn()
    first = {k: join_levels(given[k]) for k in ("objectness", "box_codes")}
    anchors = join_levels(given["anchors"], 0)
    assign = lambda b, v: match(iou(b, anchors), v, 0.7, 0.3, True)
    matched = jax.jit(jax.vmap(assign))(own["boxes"], own["valid"])
    labels = np.where(matched >= 0, 1, np.where(matched == -1, 0, -1))
    np.testing.assert_array_equal(labels, FILE["out/rpn/labels"])
    masks = FILE["in/rpn/positive"] + FILE["in/rpn/negative"]
    rows = jnp.asarray(np.stack([np.flatnonzero(mask) for mask in masks]))
    # Rows of weight 0 must not count.
    rows = jnp.pad(rows, ((0, 0), (0, 3)), constant_values=7)
    drawn = {
        "rows": rows,
        "matched": jnp.take_along_axis(matched, rows, 1),
        "weight": jnp.ones(rows.shape).at[:, 64:].set(0),
    }

    def loss(name, first):
        levels = {k: {"all": v} for k, v in first.items()}
        levels["anchors"] = {"all": anchors}
        return first_losses(levels | drawn, own)[name]

    pairs = {"objectness": ("objectness", 1e-7), "proposal_box": ("box_codes", 1e-12)}
    for name, (of, rtol) in pairs.items():
        both = jax.value_and_grad(functools.partial(loss, name))
        value, gradient = jax.jit(both)(first)
        golden = {"objectness": "rpn_objectness", "proposal_box": "rpn_box"}[name]
        close(value, FILE[f"loss/{golden}"], rtol=rtol)
        expected = FILE[f"grad/{golden}"].reshape(gradient[of].shape)
        close(gradient[of], expected, rtol=1e-6, atol=1e-9)


def with_padding(given):
    """The samples with two empty rows more, as if too few could be drawn."""
    more = lambda x: jnp.pad(x, ((0, 0), (0, 2)) + ((0, 0),) * (x.ndim - 2))
    return {name: more(x) for name, x in given.items()}


def test_losses_of_the_second_stage():
    own = target()
    padded = with_padding(roi(own))
    names = {"class": ("class_logits", 5), "box": ("box_codes", 20)}
    for name, (of, channels) in names.items():
        loss = lambda x: second_losses(padded | {of: x}, own)[name]  # noqa: B023
        value, gradient = jax.jit(jax.value_and_grad(loss))(padded[of])
        close(value, FILE[f"loss/roi_{name}"])
        expected = FILE[f"grad/roi_{name}"].reshape(3, 32, channels)
        close(gradient[:, :32], expected)
        assert (gradient[:, 32:] == 0).all()


@pytest.mark.parametrize(("setting", "score"), [("default", 0.05), ("few", 0.4)])
def test_detections(setting, score):
    given = roi(target())
    size = jnp.full((3, 2), jnp.array([96, 128]))
    kept = Selection(score, 0, 0.5, 100)
    found = jax.jit(functools.partial(detect, selection=kept))({"roi": given}, size)
    for i in range(3):
        name, valid = f"detections/{setting}/{i}", found["valid"][i]
        assert valid.sum() == len(FILE[f"{name}/scores"])
        close(found["scores"][i][valid], FILE[f"{name}/scores"])
        close(found["boxes"][i][valid], FILE[f"{name}/boxes"])
        labels = found["classes"][i][valid] + 1
        np.testing.assert_array_equal(labels, FILE[f"{name}/labels"])
        assert (found["boxes"][i][~valid] == 0).all()


def drawn(seed, own):
    keys = jax.random.split(jax.random.key(seed), 3)
    draw = functools.partial(sample_anchors, count=64)
    draw = jax.vmap(draw, in_axes=(0, None, 0, 0))
    anchors = jnp.asarray(FILE["in/anchors"])
    return draw(keys, anchors, own["boxes"], own["valid"])


def test_anchors_drawn_have_the_share_and_come_from_the_key():
    found, again, other = (drawn(seed, target()) for seed in (0, 0, 1))
    assert (found.weight == 1).all()
    assert (found.matched >= 0).sum(1).tolist() == [6, 6, 0]
    np.testing.assert_array_equal(found.rows, again.rows)
    assert (found.rows != other.rows).any()


def test_a_batch_without_objects_has_finite_losses_and_gradients():
    own = target()
    own = {k: jnp.zeros_like(v) for k, v in own.items()}
    given = roi(target())
    given["matched"] = jnp.full_like(given["matched"], -1)
    outputs = {"rpn": rpn() | drawn(0, own)._asdict(), "roi": given}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True, allow_int=True)
    def both(outputs):
        found = losses(outputs, own)
        return sum(found.values()), found

    gradient, found = both(outputs)
    assert sorted(found) == ["box", "class", "objectness", "proposal_box"]
    assert found["box"] == found["proposal_box"] == 0
    floats = [x for x in jax.tree.leaves(gradient) if x.dtype == jnp.float64]
    assert all(jnp.isfinite(x).all() for x in floats)
    assert (gradient["roi"]["box_codes"] == 0).all()
