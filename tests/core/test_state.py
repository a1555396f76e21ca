"""The state of a step: its values, its averages and its seeds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax import Tap, diffkd_step, distillation, init_state
from diffkd_jax.core.train_state import MAX_SEED, as_seed

BATCH = {"image": jax.random.normal(jax.random.key(0), (8, 6))}
TEACHER = jax.random.normal(jax.random.key(1), (6, 3))


def network(weights, batch):
    return {"logits": batch["image"] @ weights}


def carried():
    """A student's state, with values of which no average can be taken."""
    return {
        "mean": jnp.zeros(3, jnp.bfloat16),
        "count": jnp.zeros((), jnp.int32),
        "frozen": jnp.array(True),
        "key": jax.random.key(5),
    }


def student_apply(params, state, batch, key):
    noise = jax.random.normal(key, batch["image"].shape)
    out = network(params["w"], {"image": batch["image"] + noise})
    mean = out["logits"].mean(0).astype(state["mean"].dtype)
    new = {"mean": mean, "count": state["count"] + 1, "key": jax.random.key(6)}
    return out, state | new


def make(ema=True, seed=0, apply=student_apply, **options):
    distill = distillation({"logits": Tap("logits", "logits")})
    shared = {"distillation": distill, "optimizer": optax.sgd(0.1)}

    def init():
        return init_state(
            jax.random.key(0),
            {"w": jnp.ones((6, 3))},
            carried(),
            network(TEACHER, BATCH),
            network(TEACHER, BATCH),
            ema=ema,
            seed=seed,
            **shared,
        )

    step = functools.partial(
        diffkd_step,
        student_apply=apply,
        teacher_apply=network,
        task_loss=lambda out, batch: {"task": jnp.square(out["logits"]).mean()},
        weights={},
        **shared,
        **options,
    )
    return init, step


def buffers(tree):
    arrays = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.number)]
    return [x.unsafe_buffer_pointer() for x in arrays if x.size]


@pytest.mark.parametrize("compiled", [False, True])
def test_no_buffer_is_in_it_twice(compiled):
    init, step = make(ema_decay=0.9)
    state = jax.jit(init)() if compiled else init()
    assert len(set(buffers(state))) == len(buffers(state))
    step = jax.jit(step, donate_argnums=0)
    for _ in range(2):
        state, metrics = step(state, TEACHER, BATCH)
    assert np.isfinite(metrics["loss/total"])


def test_its_type_is_constant_over_steps():
    init, step = make(ema_decay=0.9)
    before = jax.eval_shape(init)
    run = lambda state: jax.lax.scan(
        lambda state, _: step(state, TEACHER, BATCH), state, length=3
    )
    after, metrics = jax.eval_shape(run, before)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    types = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert types(after) == types(before)
    assert metrics["norm/state"].shape == (3,)


def test_what_is_no_float_is_copied_into_the_average():
    init, step = make(ema_decay=0.75)
    state, _ = jax.jit(step)(init(), TEACHER, BATCH)
    average, new = state.ema["state"], state.model_state["student"]
    assert (average["count"], average["frozen"]) == (1, True)
    assert (
        jax.random.key_data(average["key"]) == jax.random.key_data(new["key"])
    ).all()
    np.testing.assert_allclose(
        average["mean"].astype(float), 0.25 * new["mean"].astype(float), rtol=1e-2
    )


def test_a_decay_without_an_average_is_refused():
    init, step = make(ema=False, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"ema_decay: found 0.9 .*ema=True"):
        step(init(), TEACHER, BATCH)


def test_the_seed_is_data():
    """Seeds share one program, whose draws are those of a program for one seed."""
    traces = []

    def counted(params, state, batch, key):
        traces.append(1)
        return student_apply(params, state, batch, key)

    def task_loss(state):
        return make(apply=counted)[1](state, TEACHER, BATCH)[1]["loss/task"]

    by_state = jax.jit(task_loss)
    states = {seed: make(seed=seed)[0]() for seed in (0, 3, MAX_SEED)}
    found = {seed: by_state(state) for seed, state in states.items()}
    assert len(traces) == 1
    assert len({float(x) for x in found.values()}) == 3
    for seed, value in found.items():
        bound = jax.jit(lambda state, seed=seed: task_loss(state.replace(seed=seed)))
        assert bound(states[0]) == value


@pytest.mark.parametrize("seed", [-1, 2**31, 2**70, 1.5, "1", None, jnp.ones(2, int)])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(ValueError, match=r"seed: found .*, expected an integer, 0 to"):
        as_seed(seed)


@pytest.mark.parametrize("seed", [0, 7, MAX_SEED])
def test_keys_of_traced_seeds_are_those_of_numbers(seed):
    found = jax.jit(lambda s: jax.random.key_data(jax.random.key(as_seed(s))))(seed)
    np.testing.assert_array_equal(found, jax.random.key_data(jax.random.key(seed)))


@pytest.mark.parametrize("where", ["student", "average"])
def test_the_norm_of_what_is_carried_sees_what_the_loss_does_not(where):
    init, step = make(ema_decay=0.9)
    state = init()
    if where == "average":
        state.ema["params"]["w"] = state.ema["params"]["w"].at[0, 0].set(jnp.nan)
    else:

        def broken(params, state, batch, key):
            out, state = student_apply(params, state, batch, key)
            return out, state | {"mean": state["mean"].at[1].set(jnp.inf)}

        step = functools.partial(step, student_apply=broken)
    _, metrics = jax.jit(step)(state, TEACHER, BATCH)
    others = [k for k in metrics if k.startswith(("loss/", "norm/"))]
    assert [k for k in others if not np.isfinite(metrics[k])] == ["norm/state"]
