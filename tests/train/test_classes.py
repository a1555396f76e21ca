"""Classes are compared by name."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest

from diffkd_jax.core.distances import DISTANCES, dkd, kl, mse
from diffkd_jax.core.distill import Tap
from diffkd_jax.train.classes import LABELLED, check_student, check_teacher

NAMES = ("ant", "bee", "cow")
LOGITS = {"logits": Tap("logits", "logits", functools.partial(kl, tau=4.0))}
FEATURES = {"features": Tap("features", "features", functools.partial(mse))}
DKD = {"logits": Tap("logits", "logits", functools.partial(dkd, tau=4.0), denoise={})}


def meta(*names, count=0):
    return {"class_names": list(names), "num_classes": count or len(names)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("bee", "ant", "cow"), "another order; class 0: found 'bee', expected 'ant'"),
        (("ant", "bee", "elk"), "other classes: class 2: found 'elk', expected 'cow'"),
    ],
)
def test_other_names(names, message, caplog):
    with pytest.raises(ValueError, match=rf"teacher.init: .*{message}"):
        check_teacher(meta(*names), NAMES, LOGITS)
    with pytest.raises(ValueError, match=message):
        check_student("workdir: runs/x", meta(*names), NAMES)
    assert not caplog.text
    check_teacher(meta(*names), NAMES, FEATURES)
    assert message.partition("; ")[2] in caplog.text
    assert "teacher of other classes than the data" in caplog.text


def test_the_same_names_and_no_names(caplog):
    for known in (meta(*NAMES), meta(count=3), meta("0", "1", "2")):
        check_teacher(known, NAMES, LOGITS)
        check_teacher(known, ("0", "1", "2"), LOGITS)
        check_student("workdir", known, NAMES)
    assert not caplog.text


def test_another_number_of_classes():
    check_teacher(meta(*"abcdefghij"), NAMES, LOGITS)  # as teacher.num_classes says
    with pytest.raises(
        ValueError, match=r"taps.logits.distance: .* of 10 .* data of 3"
    ):
        check_teacher(meta(count=10), NAMES, DKD)
    check_teacher(meta(count=3), NAMES, DKD)
    with pytest.raises(ValueError, match=r"runs/x holds a student of 10 .*expected 3"):
        check_student("workdir: runs/x", meta(count=10), NAMES)


@pytest.mark.parametrize("name", DISTANCES)
def test_which_distances_read_labels(name):
    x, y = (jax.random.normal(jax.random.key(seed), (4, 3)) for seed in (0, 1))
    values = {
        float(DISTANCES[name](x, y, {"label": jnp.full(4, label, jnp.int32)}))
        for label in range(3)
    }
    assert "target" in inspect.signature(DISTANCES[name]).parameters
    assert (len(values) > 1) == (name in LABELLED)


def test_one_class_has_no_others_to_compare():
    with pytest.raises(ValueError, match=r"taps.logits.distance: .* of 1 class, expec"):
        check_teacher(meta("ant"), ("ant",), DKD)
    check_teacher(meta("ant"), ("ant",), LOGITS)
