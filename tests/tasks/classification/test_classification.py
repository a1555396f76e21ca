"""Metrics against counting by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax.tasks.classification import task


def test_metrics_and_confusion_count_unmasked_examples():
    logits = jax.random.normal(jax.random.key(0), (40, 7))
    label = jax.random.randint(jax.random.key(1), (40,), 0, 7)
    mask = jnp.arange(40) < 33
    batch = {"target": {"label": label}, "mask": mask.astype(jnp.float32)}
    sums = task.metrics({"logits": logits}, batch)
    order = np.argsort(-np.asarray(logits), -1)
    hits = order == np.asarray(label)[:, None]
    assert sums["count"] == 33
    assert sums["top1"] == hits[:33, :1].sum()
    assert sums["top5"] == hits[:33, :5].sum()
    nll = -np.asarray(jax.nn.log_softmax(logits))[np.arange(33), label[:33]]
    np.testing.assert_allclose(sums["loss"], nll.sum(), rtol=1e-5)
    counts = task.confusion({"logits": logits}, batch)
    expected = np.zeros((7, 7))
    np.add.at(expected, (np.asarray(label)[:33], order[:33, 0]), 1)
    np.testing.assert_array_equal(counts, expected)


def test_constant_logits_score_nothing():
    batch = {"target": {"label": jnp.zeros(4, jnp.int32)}, "mask": jnp.ones(4)}
    assert task.metrics({"logits": jnp.zeros((4, 3))}, batch)["top1"] == 0


def test_label_smoothing_spreads_evenly():
    out = {"logits": jnp.array([[2.0, 0.0]])}
    batch = {"target": {"label": jnp.array([0])}}
    log_p = jax.nn.log_softmax(out["logits"])[0]
    smooth = task.loss(out, batch, label_smoothing=0.2)["task"]
    np.testing.assert_allclose(smooth, -(0.9 * log_p[0] + 0.1 * log_p[1]), rtol=1e-6)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("classes", [1, 3, 6, 10])
def test_logits_that_are_not_finite_score_nothing(classes, value):
    """All logits of a row, or that of its label alone; other rows still count."""
    label = jnp.arange(3) % classes
    good = jax.nn.one_hot(label[:1], classes)
    broken = jnp.full((1, classes), value)
    own = jnp.zeros((1, classes)).at[0, label[2]].set(value)
    out = {"logits": jnp.concatenate([good, broken, own])}
    batch = {"target": {"label": label}, "mask": jnp.ones(3)}
    sums = task.metrics(out, batch)
    assert sums["top1"] == 1
    if classes > 5:
        assert sums["top5"] == 1
    assert not np.isfinite(sums["loss"])
    assert not np.isfinite(task.loss(out, batch)["task"])
    assert jnp.trace(task.confusion(out, batch)) == 1


def test_a_class_ruled_out_by_minus_infinity_is_no_fault():
    out = {"logits": jnp.array([[2.0, 1.0, -jnp.inf]])}
    batch = {"target": {"label": jnp.array([0])}, "mask": jnp.ones(1)}
    assert task.metrics(out, batch)["top1"] == 1
    assert task.confusion(out, batch).tolist()[0] == [1, 0, 0]
