"""Identities that the distances obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax.core.distances import DISTANCES, cosine, dist, dkd, kl, mse

LOGITS = jax.random.normal(jax.random.key(0), (2, 5, 7))
LABELS = {"label": jnp.array([0, 3, 6, 1, 1])}
# Five positions of a map: all distances take maps.
MAPS = LOGITS.reshape(2, 1, 5, 1, 7)
OF_MAPS = {"label": LABELS["label"].reshape(1, 5, 1)}


@pytest.mark.parametrize("name", DISTANCES)
def test_zero_at_the_teacher_and_positive_elsewhere(name):
    student, teacher = MAPS
    assert abs(DISTANCES[name](teacher, teacher, OF_MAPS)) < 1e-5
    assert DISTANCES[name](student, teacher, OF_MAPS) > 1e-3


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_are_finite_even_at_zeros(name):
    gradient = jax.grad(DISTANCES[name])
    for student in (MAPS[0].at[0, 0].set(0.0), jnp.zeros_like(MAPS[0])):
        assert np.isfinite(gradient(student, MAPS[1], OF_MAPS)).all()


@settings(deadline=None, max_examples=25)
@given(st.floats(1.0, 8.0), st.integers(0, 1000))
def test_dkd_decouples_kd(tau, seed):
    """KD = TCKD + (1 - teacher's target probability) NCKD, for each example."""
    student, teacher = 3 * jax.random.normal(jax.random.key(seed), (2, 1, 7))
    label = jnp.array([seed % 7])
    rest = 1 - jax.nn.softmax(teacher / tau)[0, label[0]]
    decoupled = dkd(
        student, teacher, {"label": label}, tau=tau, alpha=1.0, beta=float(rest)
    )
    np.testing.assert_allclose(
        decoupled, kl(student, teacher, tau=tau), rtol=1e-3, atol=1e-5
    )


def test_dist_ignores_scale_and_shift_of_probabilities():
    """The student's probabilities are an affine function of the teacher's."""
    teacher = LOGITS[1]
    p = 0.5 * jax.nn.softmax(teacher) + 0.5 / 7
    assert abs(dist(jnp.log(p), teacher)) < 1e-5


def test_cosine_ignores_length():
    np.testing.assert_allclose(cosine(3 * LOGITS[0], LOGITS[0]), 0.0, atol=1e-6)
    np.testing.assert_allclose(cosine(-LOGITS[0], LOGITS[0]), 2.0, atol=1e-6)


def test_maps_count_each_position_as_an_example():
    student, teacher = LOGITS.reshape(2, 1, 1, 5, 7)
    for distance in (kl, dist, mse):
        np.testing.assert_allclose(
            distance(student, teacher), distance(*LOGITS), rtol=1e-5
        )


def test_half_precision_inputs_give_float32():
    for name, distance in DISTANCES.items():
        student, teacher = MAPS.astype(jnp.bfloat16)
        assert distance(student, teacher, OF_MAPS).dtype == jnp.float32, name


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 7\).*\(5, 6\)|c"):
        mse.__wrapped__(LOGITS[0], LOGITS[1][:, :6])
    with pytest.raises(ValueError, match="found no 'label'"):
        dkd(*LOGITS)


def largest(distance, student, teacher):
    gradient = jax.grad(lambda s: distance(s, teacher))(student)
    assert gradient.dtype == student.dtype
    return float(jnp.abs(gradient.astype(jnp.float32)).max())


bounded = settings(deadline=None, max_examples=30)
scales = st.one_of(st.just(0.0), st.floats(-30, 0).map(lambda e: 10**e))
dtypes = st.sampled_from(["float32", "bfloat16", "float16"])


@pytest.mark.parametrize("distance", [dist, cosine])
@bounded
@given(scales, scales, st.floats(-5, 5), dtypes, st.integers(0, 99))
def test_gradients_are_bounded_near_constant_rows(
    distance, scale, teacher_scale, shift, dtype, seed
):
    """Heads that start at zero, dead vectors, and rows of a constant plus noise."""
    noise = jax.random.normal(jax.random.key(seed), (2, 5, 7))
    student = scale * noise[0].at[0].set(0.0) + (shift if distance is dist else 0.0)
    teacher = teacher_scale * noise[1]
    assert largest(distance, student.astype(dtype), teacher.astype(dtype)) < 300


def test_gradients_at_zero_lead_to_the_teacher():
    for distance in (dist, cosine):
        step = -jax.grad(distance)(jnp.zeros((5, 7)), LOGITS[1])
        assert distance(step / jnp.abs(step).max(), LOGITS[1]) < 0.7


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_dist_of_logits_that_vary_is_the_original(scale):
    """The original has Pearson correlations with epsilon in the denominator."""

    def correlation(a, b):
        a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
        norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
        return (a * b).sum(-1) / (norms + 1e-8)

    def original(student, teacher):
        p, q = jax.nn.softmax(student), jax.nn.softmax(teacher)
        return 2 - correlation(p, q).mean() - correlation(p.T, q.T).mean()

    student, teacher = scale * LOGITS[0], LOGITS[1]
    found, expected = (
        jax.value_and_grad(f)(student, teacher) for f in (dist, original)
    )
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)
