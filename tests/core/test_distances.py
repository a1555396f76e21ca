"""Identities that the distances obey."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffkd_jax.core.distances import DISTANCES, cosine, dist, dkd, kl, mse

LOGITS = jax.random.normal(jax.random.key(0), (2, 5, 7))
LABELS = jnp.array([0, 3, 6, 1, 1])


@pytest.mark.parametrize("name", DISTANCES)
def test_zero_at_the_teacher_and_positive_elsewhere(name):
    student, teacher = LOGITS
    assert abs(DISTANCES[name](teacher, teacher, LABELS)) < 1e-5
    assert DISTANCES[name](student, teacher, LABELS) > 1e-3


@pytest.mark.parametrize("name", DISTANCES)
def test_gradients_are_finite_even_at_zeros(name):
    student = LOGITS[0].at[0].set(0.0)
    gradient = jax.grad(DISTANCES[name])(student, LOGITS[1], LABELS)
    assert np.isfinite(gradient).all()
    zeros = jax.grad(DISTANCES[name])(jnp.zeros((5, 7)), LOGITS[1], LABELS)
    assert np.isfinite(zeros).all()


@settings(deadline=None, max_examples=25)
@given(st.floats(1.0, 8.0), st.integers(0, 1000))
def test_dkd_decouples_kd(tau, seed):
    """KD = TCKD + (1 - teacher's target probability) NCKD, for each example."""
    student, teacher = 3 * jax.random.normal(jax.random.key(seed), (2, 1, 7))
    label = jnp.array([seed % 7])
    rest = 1 - jax.nn.softmax(teacher / tau)[0, label[0]]
    decoupled = dkd(student, teacher, label, tau=tau, alpha=1.0, beta=float(rest))
    np.testing.assert_allclose(
        decoupled, kl(student, teacher, tau=tau), rtol=1e-3, atol=1e-5
    )


def test_dist_ignores_scale_and_shift_of_probabilities():
    """Any student whose probabilities are affine in the teacher's."""
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
        student, teacher = LOGITS.astype(jnp.bfloat16)
        assert distance(student, teacher, LABELS).dtype == jnp.float32, name


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 7\).*\(5, 6\)|c"):
        mse.__wrapped__(LOGITS[0], LOGITS[1][:, :6])
    with pytest.raises(ValueError, match="found no labels"):
        dkd(*LOGITS)
