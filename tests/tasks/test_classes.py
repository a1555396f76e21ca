"""Classes are compared by name."""

import functools

import jax
import jax.numpy as jnp
import pytest

from diffkd_jax.core.distances import DISTANCES, kl, reads_target
from diffkd_jax.tasks.classes import check_classes

NAMES = ("ant", "bee", "cow")
LOGITS = {"logits": ("logits", "logits", False)}
FEATURES = {"features": ("features", "features", False)}
DKD = {"logits": ("logits", "logits", True)}


def meta(*names, count=0):
    return {"class_names": list(names), "num_classes": count or len(names)}


DATA = meta(*NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bee", "ant", "cow"), "another order; class 0: found 'bee', expected 'ant'"),
        (("ant", "bee", "elk"), "other classes: class 2: found 'elk', expected 'cow'"),
    ],
)
def test_other_names(names, message, caplog):
    with pytest.raises(ValueError, match=rf"teacher.init: .*{message}"):
        check_classes("teacher.init", meta(*names), DATA, LOGITS)
    with pytest.raises(ValueError, match=message):
        check_classes("workdir: runs/x", meta(*names), DATA)
    assert not caplog.text
    check_classes("teacher.init", meta(*names), DATA, FEATURES)
    assert message.partition("; ")[2] in caplog.text
    assert "teacher of other classes than the data" in caplog.text


def test_the_same_names_and_no_names(caplog):
    for known in (meta(*NAMES), meta(count=3), meta("0", "1", "2")):
        check_classes("teacher.init", known, DATA, LOGITS)
        check_classes("teacher.init", known, meta("0", "1", "2"), LOGITS)
        check_classes("workdir", known, DATA)
    assert not caplog.text


def test_another_number_of_classes():
    check_classes(
        "teacher.init", meta(*"abcdefghij"), DATA, LOGITS
    )  # as teacher.num_classes says
    with pytest.raises(
        ValueError, match=r"taps.logits.distance: .* of 10 .* data of 3"
    ):
        check_classes("teacher.init", meta(count=10), DATA, DKD)
    check_classes("teacher.init", meta(count=3), DATA, DKD)
    with pytest.raises(ValueError, match=r"runs/x: found a student of 10 .*expected 3"):
        check_classes("workdir: runs/x", meta(count=10), DATA)


@pytest.mark.parametrize("name", DISTANCES)
def test_which_distances_read_labels(name):
    shape = (4, 1, 2, 3)  # a map: all distances take maps
    x, y = (jax.random.normal(jax.random.key(seed), shape) for seed in (0, 1))
    values = {
        float(DISTANCES[name](x, y, {"label": jnp.full(shape[:3], label, jnp.int32)}))
        for label in range(3)
    }
    assert (len(values) > 1) == reads_target(DISTANCES[name], x, y)


def test_whoever_looks_into_the_target_reads_it():
    x = jnp.ones((4, 3))
    for look in (
        lambda target: target["box"].sum(),
        lambda target: 0.0 if "box" in target else 1.0,
        lambda target: sum(1 for _ in target.items()),
    ):
        assert reads_target(lambda s, t, target, look=look: look(target), x, x)
    assert not reads_target(lambda s, t, target: (s * t).sum(), x, x)
    assert not reads_target(functools.partial(kl, tau=2.0), x, x)


def test_one_class_has_no_others_to_compare():
    with pytest.raises(ValueError, match=r"taps.logits.distance: .* of 1 class, expec"):
        check_classes("teacher.init", meta("ant"), meta("ant"), DKD)
    check_classes("teacher.init", meta("ant"), meta("ant"), LOGITS)
