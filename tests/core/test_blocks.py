"""Blocks of taps, built in, shared and of users; weights; messages of refusals."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax import (
    DiffKD,
    Projection,
    Refined,
    Tap,
    diffkd_step,
    distillation,
    init_state,
)
from diffkd_jax.core.losses import warm_up, weigh

KEY = jax.random.key(0)
OUT = {"a": jax.random.normal(KEY, (6, 4)), "b": jax.random.normal(KEY, (6, 4)) + 1}


class Scaled(nn.Module):
    """A user's block with a trained factor, a carried counter, a loss and info."""

    @nn.compact
    def __call__(self, student, teacher):
        factor = self.param("factor", nn.initializers.constant(2.0), ())
        count = self.variable("counters", "seen", jnp.zeros, (), jnp.int32)
        if not self.is_initializing():
            count.value += len(student)
        return Refined(
            factor * student, teacher, {"size": factor**2}, {"factor": factor}
        )


def both(distill, student=OUT, teacher=OUT):
    return distill.loss(*distill.init(KEY, student, teacher), KEY, student, teacher)


def test_a_block_of_ones_own():
    distill = distillation({"x": Tap("a", "b", block=Scaled())})
    losses, state, info = both(distill)
    assert float(losses["x/size"]) == 4.0
    expected = jnp.mean(jnp.square(2 * OUT["a"] - OUT["b"]))
    np.testing.assert_allclose(losses["x/distance"], expected, rtol=1e-6)
    assert int(state["x"]["counters"]["scaled"]["seen"]) == 6
    assert float(info["x"]["factor"]) == 2.0


def test_without_a_block_outputs_are_compared_as_they_are():
    distill = distillation({"x": Tap("a", "b", block=None)})
    losses, state, _ = both(distill)
    assert state == {"x": {}}
    expected = jnp.mean(jnp.square(OUT["a"] - OUT["b"]))
    np.testing.assert_allclose(losses["x/distance"], expected, rtol=1e-6)


def test_taps_that_share_have_one_block_and_one_state():
    taps = {n: Tap(n, "b", block=Scaled(), share="levels") for n in ("a", "b")}
    distill = distillation(taps)
    params, state = distill.init(KEY, OUT, OUT)
    assert set(params) == set(state) == {"levels"}
    losses, state, _ = distill.loss(params, state, KEY, OUT, OUT)
    assert set(losses) == {"a/size", "a/distance", "b/size", "b/distance"}
    assert int(state["levels"]["counters"]["scaled"]["seen"]) == 12


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        ({"x": Tap("a", "b", share="y"), "y": Tap("a", "b")}, "the name of another"),
        (
            {n: Tap("a", "b", block=b, share="z") for n, b in
             (("x", Scaled()), ("y", Projection()))},
            "blocks of two kinds that share 'z'",
        ),
        ([Tap("a", "b")], "taps: found list, expected a dict of Tap by name"),
        ({"x": "logits"}, "taps: found dict, expected a dict of Tap by name"),
    ],
)  # fmt: skip
def test_taps_that_cannot_be(taps, message):
    with pytest.raises(ValueError, match=message):
        distillation(taps)


def test_a_shared_block_of_two_shapes_is_refused():
    taps = {n: Tap(n, "b", share="z") for n in ("a", "wide")}
    out = {"a": jnp.ones((6, 3)), "wide": jnp.ones((6, 5))}
    with pytest.raises(ValueError, match=r"tap 'wide': found parameters .*\(1, 1, 5, "):
        distillation(taps).init(KEY, out, OUT)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Tap("a", "b", "mse"),
            "Tap.distance: found 'mse', expected a function",
        ),
        (lambda: Tap("a", "b", block={"num_steps": 1}), "Tap.block: found .*DiffKD"),
    ],
)
def test_what_a_tap_cannot_hold(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_tap_compares_directly_by_default():
    assert Tap("a", "b").block == Projection()


class Odd(nn.Module):
    what: str

    def __call__(self, student, teacher):
        if self.what == "info":
            return Refined(student, teacher, {}, {"loss/x": 1.0})
        if self.what == "loss":
            return Refined(student, teacher, {"mine": student})
        return student, teacher


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("pair", "tap 'x': block: found tuple of odd, expected a Refined"),
        ("loss", r"tap 'x': mine: found shape \(6, 4\), expected a scalar"),
        ("info", r"tap 'x': block: found info \['loss'\]"),
    ],
)
def test_what_a_block_must_return(what, message):
    distill = distillation({"x": Tap("a", "b", block=Odd(what))})
    with pytest.raises(ValueError, match=message):
        both(distill)


def test_what_a_distance_must_return():
    rows = lambda s, t, target: jnp.square(s - t).mean(-1)
    with pytest.raises(ValueError, match=r"tap 'x': distance: found shape \(6,\)"):
        both(distillation({"x": Tap("a", "b", rows)}))


def step(weights=None, **functions):
    """The metrics of one step of a linear student; the step is only traced."""
    teacher, batch = jnp.ones((4, 3)), {"image": OUT["a"]}
    apply = lambda w, batch: {"logits": batch["image"] @ w}
    distill, optimizer = distillation({"x": Tap("logits", "logits")}), optax.sgd(0.1)
    state = init_state(
        KEY, teacher, {}, apply(teacher, batch), apply(teacher, batch),
        distillation=distill, optimizer=optimizer,
    )  # fmt: skip
    chosen = {
        "student_apply": lambda w, s, batch, key: (apply(w, batch), s),
        "teacher_apply": apply,
        "task_loss": lambda out, batch: {
            "task/a": jnp.ones(()),
            "task/b": jnp.ones(()),
        },
    } | functions
    run = functools.partial(
        diffkd_step, distillation=distill, optimizer=optimizer, weights=weights or {},
        **chosen,
    )  # fmt: skip
    return run, state.replace(step=state.step + 3), teacher, batch


def test_weights_are_numbers_or_schedules_of_names_or_groups():
    weights = {"task": 3.0, "task/b": lambda step: 0.5 * step, "x": 2.0}
    run, *args = step(weights)
    _, metrics = run(*args)
    assert float(metrics["weighted/task/a"]) == 3.0
    assert float(metrics["weighted/task/b"]) == 4.5
    np.testing.assert_allclose(
        metrics["weighted/x/distance"], 2 * metrics["loss/x/distance"]
    )
    total = sum(v for k, v in metrics.items() if k.startswith("weighted/"))
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-6)


def test_distances_warm_up_and_other_losses_do_not():
    halved = lambda step: jnp.where(step < 10, 2.0, 1.0)
    weights = {"a/distance": halved, "b": 3.0, "c/distance": 0.0, "task": 0.5}
    losses = {f"{tap}/{name}": jnp.ones(()) for tap in "abc" for name in
              ("distance", "diffusion")} | {"task": jnp.ones(())}  # fmt: skip
    for step, share in ((0, 0.0), (2, 0.5), (4, 1.0), (12, 1.0)):
        weighted = weigh(losses, warm_up(weights, "abc", 4), jnp.array(step))
        plain = weigh(losses, weights, jnp.array(step))
        for name, value in plain.items():
            factor = share if name.endswith("/distance") else 1.0
            assert float(weighted[name]) == pytest.approx(factor * float(value)), name
    assert warm_up(weights, "abc", 0) == weights
    assert warm_up(weights, "c", 4)["c/distance"] == 0.0  # it is refused as before


def test_a_weight_of_one_changes_no_bit():
    losses = {"task": jnp.float32(0.1)}
    assert weigh(losses, {"task": 1.0}, jnp.array(0))["task"] is losses["task"]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (
            {"student_apply": lambda w, s, b, k: {"logits": w}},
            "student_apply: found di",
        ),
        (
            {"student_apply": lambda w, s, b, k: (b["image"] @ w, s)},
            r"student_apply: found outputs of an array of shape \(6, 3\)",
        ),
        (
            {"teacher_apply": lambda w, b: (w, w)},
            "teacher_apply: found outputs of tuple",
        ),
        (
            {"task_loss": lambda out, b: out["logits"].mean()},
            "task_loss: found an array",
        ),
        (
            {"task_loss": lambda out, b: {"task": out["logits"].mean(-1)}},
            r"task_loss: found 'task' of shape \(6,\), expected a scalar",
        ),
        ({"prepare": lambda k, b: None}, "prepare: found NoneType, expected the batch"),
    ],
)
def test_what_the_functions_of_a_step_must_return(functions, message):
    run, *args = step(**functions)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(run, *args)


def test_shapes_are_those_of_the_losses_and_of_what_is_compared():
    out = lambda side, width: {"x": jax.ShapeDtypeStruct((4, side, side, width), "f4")}
    block = DiffKD(latent_channels=6, num_steps=1)
    distill = distillation({"a": Tap("x", "x"), "b": Tap("x", "x", block=block)})
    student, teacher = out(4, 8), out(8, 16)
    losses, pairs = distill.shapes(student, teacher)
    params, state = jax.eval_shape(distill.init, jax.random.key(0), student, teacher)
    arguments = (params, state, jax.random.key(0), student, teacher)
    assert losses == jax.eval_shape(distill.loss, *arguments)[0]
    assert pairs["a"].student.shape == pairs["a"].teacher.shape == (4, 4, 4, 16)
    assert pairs["b"].student.shape == pairs["b"].teacher.shape == (4, 4, 4, 6)
