"""The comparison of gradients uses the losses of the step, and changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax import DiffKD, Tap, compare_gradients, diffkd_step, distillation
from diffkd_jax.core.distances import dkd
from tests.core.test_step import (
    BATCH,
    TAPS,
    TEACHER,
    first_state,
    student_apply,
    task_loss,
    teacher_apply,
)

WEIGHTS = {"features/distance": 3.0, "task": lambda step: 0.5 + step}


def with_parts(outputs, batch):
    """A task of two losses."""
    loss = task_loss(outputs, batch)["task"]
    return {"task/a": loss, "task/b": outputs["logits"].mean() ** 2}


def bound(function, task=with_parts, weights=WEIGHTS, taps=TAPS, **kwargs):
    return functools.partial(
        function,
        student_apply=student_apply,
        teacher_apply=teacher_apply,
        distillation=distillation(taps),
        task_loss=task,
        weights=weights,
        **kwargs,
    )


def gradient_by_step(names, state, batch=BATCH):
    """The student's gradient of some weighted losses: what SGD of rate 1 subtracts."""
    weights = dict.fromkeys(ALL_LOSSES, 0.0)
    weights |= {
        n: WEIGHTS.get("task" if n.startswith("task") else n, 1.0) for n in names
    }
    optimizer = optax.sgd(1.0)
    state = state.replace(opt_state=optimizer.init(state.params))
    step = jax.jit(bound(diffkd_step, weights=weights, optimizer=optimizer))
    new, _ = step(state, TEACHER, batch)
    before, after = state.params["student"], new.params["student"]
    return {n: np.asarray(before[n] - after[n], np.float64) for n in before}


ALL_LOSSES = (
    *("task/a", "task/b"),
    *("features/distance", "features/diffusion", "logits/distance"),
)


def angle(a, b):
    flat = [np.concatenate([x[n].ravel() for n in sorted(x)]) for x in (a, b)]
    norms = [np.linalg.norm(x) for x in flat]
    return norms[0] / norms[1], flat[0] @ flat[1] / (norms[0] * norms[1])


def test_figures_are_those_of_the_gradients_of_the_step():
    state = first_state(True)
    figures = jax.jit(bound(compare_gradients))(state, TEACHER, BATCH)
    task = gradient_by_step(ALL_LOSSES[:2], state)
    groups = {n: [n] for n in ALL_LOSSES if n != "features/diffusion"}
    groups["distillation"] = ALL_LOSSES[2:]
    for name, losses in groups.items():
        ratio, cosine = angle(gradient_by_step(losses, state), task)
        tolerance = {"rtol": 2e-4, "atol": 1e-5}
        np.testing.assert_allclose(
            figures[f"gradient_ratio/{name}"], ratio, **tolerance
        )
        np.testing.assert_allclose(
            figures[f"gradient_cosine/{name}"], cosine, **tolerance
        )
    # The diffusion loss trains the distiller alone.
    assert figures["gradient_ratio/features/diffusion"] == 0
    assert np.isnan(figures["gradient_cosine/features/diffusion"])
    norm = np.sqrt(sum((x**2).sum() for x in task.values()))
    np.testing.assert_allclose(figures["norm/task_gradient"], norm, rtol=1e-4)
    assert {x.dtype for x in figures.values()} == {np.dtype("float32")}


def test_frozen_parameters_are_left_out():
    frozen = lambda params: {name: name == "a" for name in params}
    state = first_state(True)
    figures = jax.jit(bound(compare_gradients, frozen=frozen))(state, TEACHER, BATCH)
    task, distance = (
        {"b": gradient_by_step(names, state)["b"]}
        for names in (ALL_LOSSES[:2], ["logits/distance"])
    )
    ratio, cosine = angle(distance, task)
    np.testing.assert_allclose(
        figures["gradient_ratio/logits/distance"], ratio, rtol=2e-4
    )
    np.testing.assert_allclose(
        figures["gradient_cosine/logits/distance"], cosine, rtol=2e-4
    )
    assert figures["gradient_ratio/features/distance"] == 0  # it trains "a" alone


def test_a_loss_that_is_not_finite_spoils_its_own_figures_alone():
    weights = WEIGHTS | {
        "logits/distance": lambda step: jnp.where(step < 9, jnp.nan, 1)
    }
    compare = jax.jit(bound(compare_gradients, weights=weights))
    figures = compare(first_state(True), TEACHER, BATCH)
    for name in ("logits/distance", "distillation"):
        assert np.isnan(figures[f"gradient_ratio/{name}"])
    assert np.isfinite(figures["gradient_ratio/features/distance"])


def test_one_more_loss_needs_no_further_forward_pass():
    count = lambda taps: len(
        jax.jit(bound(compare_gradients, task=task_loss, taps=taps, weights={}))
        .lower(first_state(True), TEACHER, BATCH)
        .as_text()
        .split("tanh")
    )
    block = {"features": Tap("features", "features", block=DiffKD(num_steps=2))}
    logits = {"logits": Tap("logits", "logits", functools.partial(dkd, tau=2.0))}
    assert count(block) == count(block | logits)


def test_errors_are_those_of_the_step():
    compare = bound(compare_gradients, weights={"tusk": 1.0})
    with pytest.raises(ValueError, match=r"weights: found \['tusk'\]"):
        jax.eval_shape(compare, first_state(True), TEACHER, BATCH)
