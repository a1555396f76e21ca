"""FGD equals its golden terms, trains both relation blocks, and reads boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffkd_jax import diffkd_step, distillation, init_state
from diffkd_jax.methods.fgd_blocks import Context, Relation, fgd, fgd_terms, weigh_cells
from diffkd_jax.methods.pyramid import fgd as method
from tests.helpers.goldens import GOLDEN

FILE = np.load(GOLDEN / "dense/map_distances.npz")
STRIDE = 8  # an image of 72x88 and maps of 9x11


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def maps():
    return [
        jnp.asarray(FILE[f"in/{x}"].transpose(0, 2, 3, 1))
        for x in ("student", "teacher")
    ]


def target(rows=4):
    """A target with rows of padding, whose box must not count."""
    boxes, valid = np.full((2, rows, 4), (8.0, 8, 80, 70)), np.zeros((2, rows), bool)
    for i in range(2):
        own = FILE[f"fgd/in/boxes/{i}"]
        boxes[i, 1 : len(own) + 1], valid[i, 1 : len(own) + 1] = own, True
    return {"boxes": jnp.asarray(boxes), "valid": jnp.asarray(valid)}


def relation_params(side):
    p = {
        k: FILE[f"fgd/param/{side}/{k}"]
        for k in ["mask_w", "mask_b", "w1", "b1", "ln_w", "ln_b", "w2", "b2"]
    }
    return {
        "mask": {"kernel": p["mask_w"].T[None, None], "bias": p["mask_b"]},
        "reduce": {"kernel": p["w1"].T[None, None], "bias": p["b1"]},
        "norm": {"scale": p["ln_w"], "bias": p["ln_b"]},
        "expand": {"kernel": p["w2"].T, "bias": p["b2"]},
    }


def test_masks():
    own = target()
    masked = jax.jit(functools.partial(weigh_cells, size=(9, 11), stride=STRIDE))
    found = masked(own["boxes"], own["valid"])
    for x, name in zip(found, ("foreground", "background"), strict=True):
        np.testing.assert_allclose(x, FILE[f"fgd/{name}"], rtol=1e-12)
    # Boxes cover all cells of the second image. Without boxes no cell is covered.
    none = masked(own["boxes"], jnp.zeros_like(own["valid"]))
    assert (none[0] == 0).all()
    np.testing.assert_allclose(none[1], 1 / 99)


def test_terms_and_total():
    found = jax.jit(functools.partial(fgd_terms, stride=STRIDE))(*maps(), target())
    for name, value in found.items():
        np.testing.assert_allclose(value, FILE[f"fgd/loss_{name}"], rtol=1e-9)
    params = {side: relation_params(side) for side in ("student", "teacher")}
    refined = jax.jit(Relation().apply)({"params": params}, *maps())
    np.testing.assert_allclose(
        refined.losses["relation"], FILE["fgd/loss_relation"], rtol=1e-9
    )
    chosen = method(levels=("p3",))
    total = chosen.taps["p3"].distance(refined.student, refined.teacher, target())
    total += chosen.weights["p3/relation"] * refined.losses["relation"]
    np.testing.assert_allclose(total, FILE["fgd/total_retinanet_weights"], rtol=1e-9)


def test_a_block_starts_as_the_map_itself():
    x = maps()[0]
    found = jax.jit(Context().init_with_output)(jax.random.key(0), x)[0]
    np.testing.assert_array_equal(found, x)


def test_nothing_apart_is_zero_with_a_finite_gradient():
    x = maps()[0].at[0, 0].set(0.0)
    distance = functools.partial(fgd, target=target(), stride=STRIDE)
    value, gradient = jax.jit(jax.value_and_grad(distance))(x, x)
    assert abs(value) < 1e-12
    assert jnp.isfinite(gradient).all()


def test_half_precision_is_summed_in_more():
    with jax.enable_x64(False):
        own = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), target())
        pair = [jnp.asarray(np.asarray(x), jnp.bfloat16) for x in maps()]
        wide = [x.astype(jnp.float32) for x in pair]
        distance = jax.jit(functools.partial(fgd, stride=STRIDE))
        found, expected = (distance(*x, own) for x in (pair, wide))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        make = Relation().init_with_output
        refined = jax.eval_shape(make, jax.random.key(0), *pair)[0]
        assert refined.losses["relation"].dtype == jnp.float32


def test_a_step_trains_both_blocks_and_projects():
    with jax.enable_x64(False):
        batch = {"image": jnp.ones((2, 72, 88, 3)), "target": target()}
        student, teacher = (x.astype(jnp.float32) for x in maps())
        levels = lambda x: {"fpn": {"p3": x, "p4": x[:, ::2, ::2]}}
        chosen = method(levels=("p3", "p4"), relation=1.0)
        distill = distillation(chosen.taps)
        apply = lambda w, batch: levels(student[..., :5] * w)
        parts = {"distillation": distill, "optimizer": optax.sgd(1e-3)}
        out = apply(jnp.ones(5), batch), levels(teacher)
        state = init_state(jax.random.key(0), jnp.ones(5), {}, *out, **parts)
        step = jax.jit(
            functools.partial(
                diffkd_step,
                student_apply=lambda w, s, batch, key: (apply(w, batch), s),
                teacher_apply=lambda teacher, batch: levels(teacher),
                task_loss=lambda out, batch: {},
                weights=chosen.weights,
                **parts,
            )
        )
        first, metrics = step(state, teacher, batch)
        second, later = step(first, teacher, batch)
    names = {
        f"loss/{p}/{part}" for p in ("p3", "p4") for part in ("distance", "relation")
    }
    assert names <= set(metrics)
    assert later["loss/total"] < metrics["loss/total"]
    own = lambda state: state.params["distiller"]["p4"]["relation"]
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), own(state), own(second))
    for side in ("student", "teacher"):
        assert moved[side]["expand"]["kernel"]
        assert moved[side]["reduce"]["kernel"]
        assert moved[side]["norm"]["scale"]
    assert moved["projection"]["kernel"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "fgd: found a target without boxes, NoneType, expected"),
        ({"label": 0}, r"fgd: found a target without boxes, \['label'\], expected"),
    ],
)
def test_a_target_without_boxes_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        fgd(*maps(), given, stride=STRIDE)


def test_other_levels_and_shapes_are_refused():
    with pytest.raises(ValueError, match=r"^levels: found .*'pool'.*, expected"):
        method(levels=("p3", "pool"))
    student, teacher = maps()
    with pytest.raises(ValueError, match=r"fgd: found shapes .* expected maps of one"):
        fgd(student[:, :4], teacher, target(), stride=STRIDE)
    with pytest.raises(ValueError, match=r"Relation: found \(2, 7\), expected"):
        jax.eval_shape(
            Relation().init, jax.random.key(0), student[:, 0, 0], teacher[:, 0, 0]
        )
