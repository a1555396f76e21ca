"""The training step as a pure function."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax import DiffKD, Tap, diffkd_step, distillation, init_state
from diffkd_jax.core import distances

KEY = jax.random.key(0)
BATCH = {
    "image": jax.random.normal(KEY, (8, 6)),
    "target": {"label": jnp.arange(8) % 3},
}


def mlp(params, x):
    hidden = jnp.tanh(x @ params["a"])
    return {"features": hidden, "logits": hidden @ params["b"]}


def params_of(width, key=KEY):
    keys = jax.random.split(key)
    return {
        "a": jax.random.normal(keys[0], (6, width)),
        "b": jax.random.normal(keys[1], (width, 3)),
    }


def student_apply(params, state, batch, key):
    noisy = batch["image"] + 0.1 * jax.random.normal(key, batch["image"].shape)
    return mlp(params, noisy), state


def teacher_apply(teacher, batch):
    return mlp(teacher, batch["image"])


def task_loss(outputs, batch):
    labels = batch["target"]["label"]
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs["logits"], labels)
    return {"task": loss.mean()}


TEACHER = params_of(12, jax.random.key(1))
TAPS = {
    "features": Tap("features", "features", block=DiffKD(num_steps=2)),
    "logits": Tap("logits", "logits", functools.partial(distances.dkd, tau=2.0)),
}


@functools.cache
def first_state(tapped):
    """The state for the taps, or for none. Tests share it: none changes it in place."""
    return jax.jit(
        lambda: init_state(
            KEY,
            params_of(8),
            {},
            mlp(params_of(8), BATCH["image"]),
            teacher_apply(TEACHER, BATCH),
            distillation=distillation(TAPS if tapped else {}),
            optimizer=optax.sgd(0.05),
        )
    )()


def make(taps=TAPS, weights=None):
    distill, optimizer = distillation(taps), optax.sgd(0.05)
    state = first_state(bool(taps))
    step = functools.partial(
        diffkd_step,
        student_apply=student_apply,
        teacher_apply=teacher_apply,
        distillation=distill,
        task_loss=task_loss,
        optimizer=optimizer,
        weights=weights or {},
    )
    return state, step


def test_teacher_is_bit_identical_after_training():
    state, step = make()
    before = jax.tree.map(np.array, TEACHER)
    step = jax.jit(step)
    for _ in range(5):
        state, _ = step(state, TEACHER, BATCH)
    chex.assert_trees_all_equal(before, TEACHER)
    assert set(state.params) == {"student", "distiller"}
    assert int(state.step) == 5


def test_compiled_once():
    traces = []
    state, step = make()

    def counted(*args):
        traces.append(1)
        return step(*args)

    jitted = jax.jit(counted)
    for _ in range(4):
        state, _ = jitted(state, TEACHER, BATCH)
    assert len(traces) == 1


def test_teacher_is_an_argument_of_the_program():
    """The program's text does not grow with the teacher's arrays."""
    state, step = make()

    def padded_apply(teacher, batch):
        out = teacher_apply(teacher, batch)
        return out | {"features": out["features"] + teacher["pad"].mean()}

    step = functools.partial(step, teacher_apply=padded_apply)
    small, large = (TEACHER | {"pad": jnp.arange(n * 1.0)} for n in (10, 100_000))
    sizes = [
        len(jax.jit(step).lower(state, teacher, BATCH).as_text())
        for teacher in (small, large)
    ]
    assert abs(sizes[0] - sizes[1]) < 1000
    captured = jax.jit(lambda state, batch: step(state, large, batch))
    assert len(captured.lower(state, BATCH).as_text()) > sizes[0] + 100_000


def test_randomness_is_a_function_of_seed_and_step():
    state, step = make()
    first, again = (jax.jit(step)(state, TEACHER, BATCH)[1] for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    other_step = jax.jit(step)(state.replace(step=state.step + 1), TEACHER, BATCH)[1]
    other_seed = jax.jit(step)(state.replace(seed=jnp.int32(1)), TEACHER, BATCH)[1]
    for other in (other_step, other_seed):
        assert other["loss/features/diffusion"] != first["loss/features/diffusion"]
        assert other["loss/task"] != first["loss/task"]


def test_total_is_the_weighted_sum():
    weights = {"task": 0.5, "features/distance": 3.0, "logits/distance": 0.0}
    state, step = make(weights=weights)
    _, metrics = jax.jit(step)(state, TEACHER, BATCH)
    names = [n for n in metrics if n.startswith("loss/") and n != "loss/total"]
    assert len(names) == 4
    total = sum(weights.get(n[5:], 1.0) * metrics[n] for n in names)
    np.testing.assert_allclose(metrics["loss/total"], total, rtol=1e-6)
    for name, weight in weights.items():
        np.testing.assert_allclose(
            metrics[f"weighted/{name}"], weight * metrics[f"loss/{name}"], rtol=1e-6
        )


def test_no_taps_trains_the_task_alone():
    state, step = make(taps={})
    _, metrics = jax.jit(step)(state, TEACHER, BATCH)
    assert metrics["loss/total"] == metrics["loss/task"]
    assert state.params["distiller"] == {}


def test_a_step_of_the_task_alone_among_others():
    state, step = make(weights={"features": 2.0, "task": 0.5})
    # One weight may serve all losses of a kind.
    step = functools.partial(
        step, task_loss=lambda *a: {"task/a": task_loss(*a)["task"]}
    )
    alone = jax.jit(functools.partial(step, distill=False))
    new, metrics = alone(state, {}, BATCH)  # no teacher is needed
    assert {n for n in metrics if "/" in n and not n.startswith("norm/")} == {
        *("loss/task/a", "weighted/task/a", "loss/total")
    }
    for tree in ("params", "model_state"):
        before, after = (getattr(s, tree)["distiller"] for s in (state, new))
        chex.assert_trees_all_equal(before, after)
    plain, step = make({}, weights={"task": 0.5})
    expected, _ = jax.jit(step)(plain, TEACHER, BATCH)
    chex.assert_trees_all_close(
        new.params["student"], expected.params["student"], rtol=1e-6
    )


def test_training_lowers_the_losses():
    state, step = make()
    step, history = jax.jit(step), []
    for _ in range(150):
        state, metrics = step(state, TEACHER, BATCH)
        history.append(metrics)
    for name in ("loss/task", "loss/features/distance", "loss/logits/distance"):
        values = [float(m[name]) for m in history]
        assert np.mean(values[-20:]) < 0.7 * np.mean(values[:5]), name


def test_names_that_clash_or_do_not_exist():
    state, step = make(weights={"tusk": 1.0})
    with pytest.raises(ValueError, match=r"weights: found \['tusk'\]"):
        jax.eval_shape(step, state, TEACHER, BATCH)
    state, step = make()
    clash = functools.partial(
        step, task_loss=lambda out, batch: {"logits/distance": jnp.zeros(())}
    )
    with pytest.raises(ValueError, match=r"losses: found \['logits/distance'\]"):
        jax.eval_shape(clash, state, TEACHER, BATCH)


def test_the_average_of_the_student():
    """After two steps: the decay times the old average, 1 - decay times new values."""
    state, step = make(taps={})
    state = state.replace(
        ema={"params": state.params["student"], "state": {}},
    )
    expected = state.params["student"]
    for _ in range(2):
        state, _ = step(state, TEACHER, BATCH, ema_decay=0.9)
        expected = jax.tree.map(
            lambda old, new: 0.9 * old + 0.1 * new, expected, state.params["student"]
        )
    chex.assert_trees_all_close(state.ema["params"], expected, rtol=1e-6)


def test_no_average_is_carried_unless_asked_for():
    state, step = make(taps={})
    assert step(state, TEACHER, BATCH)[0].ema == {}


def test_prepare_changes_what_both_networks_see():
    """The step prepares the batch with a random draw of its own."""

    def prepare(key, batch):
        draw = jax.random.uniform(key)
        return {**batch, "image": batch["image"] + draw, "draw": draw}

    def with_draw(outputs, batch):  # reported as a loss, so that the test sees it
        return task_loss(outputs, batch) | {"draw": batch["draw"]}

    state, step = make()
    step = functools.partial(step, task_loss=with_draw)
    prepared = jax.jit(functools.partial(step, prepare=prepare))
    first, metrics = prepared(state, TEACHER, BATCH)
    draw = metrics["loss/draw"]
    moved = {**BATCH, "image": BATCH["image"] + draw, "draw": draw}
    again, expected = jax.jit(step)(state, TEACHER, moved)
    chex.assert_trees_all_close(metrics, expected, rtol=1e-5)
    # Two programs; a parameter near 1e-4 has changed by sums of terms near 1.
    chex.assert_trees_all_close(first.params, again.params, rtol=1e-5, atol=1e-7)
    assert prepared(first, TEACHER, BATCH)[1]["loss/draw"] != draw


@pytest.mark.parametrize("bad", [True, False])
def test_a_step_that_is_not_finite_can_be_left_out(bad):
    state, plain = make(weights={"task": lambda step: jnp.where(bad, jnp.nan, 1.0)})
    step = functools.partial(plain, skip_nonfinite=True)
    new, metrics = jax.jit(step)(state, TEACHER, BATCH)
    assert float(metrics["skipped"]) == bad
    assert int(new.step) == 1
    if bad:
        chex.assert_trees_all_equal(new.replace(step=state.step), state)
        assert np.isnan(metrics["loss/total"])
    else:
        expected, _ = jax.jit(plain)(state, TEACHER, BATCH)
        chex.assert_trees_all_close(new, expected, rtol=1e-6, atol=1e-8)
