"""Diffusion mathematics of DiffKD: noise schedule, noise mixing and DDIM.

Plain functions on arrays, without Flax. The following notation is used throughout
``core``:

===============  ==================  ==========================================
code             symbol              meaning, source
===============  ==================  ==========================================
``alpha_bar``    alpha-bar_t         product of (1 - beta_s), s <= t; eq. 2-3
``x_0``          z_0, Z_tea          clean (latent) teacher feature; eq. 2-3
``x_t``          z_t                 noisy feature at time step t; eq. 2-3
``eps``          epsilon             standard normal noise; eq. 2-4
``gamma``        gamma               share of student feature kept; eq. 8
===============  ==================  ==========================================

Equations are those of the paper (arXiv 2305.15712).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

BETA_START = 1e-4
BETA_END = 0.02


def alpha_bar(num_train_steps: int = 1000) -> np.ndarray:
    """Returns the cumulative signal power of the linear noise schedule (eq. 2-3).

    Args:
      num_train_steps: number of diffusion time steps T, at least 1.

    Returns:
      float64 ``[T]``, decreasing, in (0, 1).

    Raises:
      ValueError: ``num_train_steps`` is not positive.

    Deviation: the product is computed in float64; the official code multiplies in
    float32, which differs by at most 2.5e-7.

    >>> round(float(alpha_bar()[400]), 5)
    0.19357
    """
    if num_train_steps < 1:
        raise ValueError(f"num_train_steps: found {num_train_steps}, expected >= 1")
    betas = np.linspace(BETA_START, BETA_END, num_train_steps, dtype=np.float64)
    return np.cumprod(1.0 - betas)


def add_noise(
    x_0: Float[Array, "b *dims"],
    eps: Float[Array, "b *dims"],
    alpha_bar_t: Float[Array, " b"],
) -> Float[Array, "b *dims"]:
    """Adds noise by the forward process, with one noise level for each example (eq. 3).

    The process preserves variance: ``sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t)
      eps``.

    Args:
      x_0: ``[b, ...]``, clean features.
      eps: the shape of ``x_0``, standard normal noise.
      alpha_bar_t: ``[b]``, signal power of each example, in [0, 1].

    Returns:
      Noisy features in the shape and dtype of ``x_0``.

    >>> x = add_noise(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.25]))
    >>> x.tolist()
    [[0.5, 0.5]]
    """
    ab = _per_example(jnp.asarray(alpha_bar_t), x_0)
    x_t = jnp.sqrt(ab) * x_0 + jnp.sqrt(1.0 - ab) * eps
    return x_t.astype(x_0.dtype)


def match_noise(
    x: Float[Array, "b *dims"],
    eps: Float[Array, "b *dims"],
    gamma: Float[Array, " b"],
) -> Float[Array, "b *dims"]:
    """Mixes noise into the student, ``gamma x + (1 - gamma) eps`` (eq. 8).

    This is adaptive noise matching. The mix is linear, without square roots, as in the
    paper and its code; it is therefore not the forward process of :func:`add_noise`.

    Args:
      x: ``[b, ...]``, student features.
      eps: the shape of ``x``, standard normal noise.
      gamma: ``[b]``, share of the student feature that is kept, in [0, 1].

    Returns:
      The starting point of denoising, in the shape and dtype of ``x``.

    >>> match_noise(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.array([0.75])).tolist()
    [[0.75, 0.75]]
    """
    gamma = _per_example(gamma, x)
    return (gamma * x + (1.0 - gamma) * eps).astype(x.dtype)


def time_features(
    t: Int[Array, " b"], num_train_steps: int = 1000
) -> Float[Array, "b 32"]:
    """Returns sines and cosines of a time step at wavelengths from 4 T down to T / 64.

    Args:
      t: int ``[b]``, time steps, from 0 to ``num_train_steps - 1``.
      num_train_steps: number of diffusion time steps T.

    Returns:
      float32 ``[b, 32]``, in [-1, 1].

    >>> time_features(jnp.array([0, 999])).shape
    (2, 32)
    """
    frequencies = np.geomspace(1 / 4, 64, 16, dtype=np.float32)
    angles = (2 * np.pi / num_train_steps) * t[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class DDIMPlan(NamedTuple):
    """The coefficients of all DDIM steps, one row for each step, in the order they run.

    Each field has the shape ``[num_steps]``; in a single step it is a scalar.

    Attributes:
      t: int32, time step that the noise predictor receives.
      signal: sqrt(alpha_bar) at ``t``.
      noise: sqrt(1 - alpha_bar) at ``t``.
      next_signal: sqrt(alpha_bar) after the step.
      next_noise: sqrt(1 - alpha_bar) after the step.

    >>> plan = ddim_plan(5)
    >>> plan.t.tolist(), plan.next_signal.shape
    ([400, 300, 200, 100, 0], (5,))
    """

    t: Int[Array, "*steps"]
    signal: Float[Array, "*steps"]
    noise: Float[Array, "*steps"]
    next_signal: Float[Array, "*steps"]
    next_noise: Float[Array, "*steps"]


def ddim_plan(num_steps: int, num_train_steps: int = 1000) -> DDIMPlan:
    """Returns the time steps and coefficients of denoising.

    A schedule of ``2 * num_steps`` time steps covers the whole noise range. Only its
    second, less noisy half is used. So denoising starts below the middle of the range:
    5 steps of 1000 visit 400, 300, 200, 100 and 0, while the paper says that it starts
    at 500. The last step ends at alpha_bar = 1.

    Args:
      num_steps: number of noise predictions, from 1 to ``num_train_steps // 2``.
      num_train_steps: number of diffusion time steps.

    Returns:
      A plan of ``num_steps`` rows.

    Raises:
      ValueError: ``num_steps`` is out of range.

    >>> ddim_plan(3).t.tolist()
    [332, 166, 0]
    """
    if not 1 <= num_steps <= num_train_steps // 2:
        raise ValueError(
            f"num_steps: found {num_steps}, expected 1 to {num_train_steps // 2} "
            f"(half of num_train_steps = {num_train_steps})"
        )
    stride = num_train_steps // (2 * num_steps)
    t = stride * np.arange(num_steps - 1, -1, -1)
    powers = alpha_bar(num_train_steps)
    now = powers[t]
    then = np.where(t >= stride, powers[t - stride], 1.0)
    coefficients = np.sqrt([now, 1.0 - now, then, 1.0 - then])
    return DDIMPlan(jnp.asarray(t, jnp.int32), *jnp.asarray(coefficients))


def ddim_step(
    x_t: Float[Array, "b *dims"], eps: Float[Array, "b *dims"], step: DDIMPlan
) -> Float[Array, "b *dims"]:
    """Removes noise by one deterministic DDIM update (eq. 5, eta = 0, no clipping).

    Args:
      x_t: ``[b, ...]``, noisy features.
      eps: the shape of ``x_t``, predicted noise.
      step: one row of a :class:`DDIMPlan`.

    Returns:
      Less noisy features in the shape and dtype of ``x_t``.

    >>> last = jax.tree.map(lambda row: row[-1], ddim_plan(5))
    >>> x_0, eps = jnp.ones((1, 4)), jnp.full((1, 4), 2.0)
    >>> x_t = last.signal * x_0 + last.noise * eps
    >>> bool(jnp.allclose(ddim_step(x_t, eps, last), x_0))
    True
    """
    x_0 = (x_t - step.noise * eps) / step.signal
    return (step.next_signal * x_0 + step.next_noise * eps).astype(x_t.dtype)


def _per_example(values: jax.Array, like: jax.Array) -> jax.Array:
    """Reshapes ``[b]`` so that it broadcasts against an array ``[b, ...]``."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
