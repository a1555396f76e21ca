"""Losses of detectors, by element."""

import jax
import jax.numpy as jnp


def focal(
    logits: jax.Array, targets: jax.Array, alpha: float = 0.25, gamma: float = 2.0
) -> jax.Array:
    """Focal loss of binary logits (Lin et al. 2017, eq. 5).

    Args:
      logits: any shape, floating.
      targets: same shape, 0 or 1.
      alpha: weight of the positives, ``1 - alpha`` of the negatives; below 0 for none.
      gamma: how much less what is classified well counts.

    Returns:
      Same shape, >= 0, finite for all finite logits.

    >>> focal(jnp.array([0.0, -200.0]), jnp.array([1.0, 1.0])).round(4).tolist()
    [0.043299999088048935, 50.0]
    """
    positive = targets > 0.5
    log_right = jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    log_wrong = jax.nn.log_sigmoid(jnp.where(positive, -logits, logits))
    loss = -log_right * jnp.exp(gamma * log_wrong)
    return loss * jnp.where(positive, alpha, 1 - alpha) if alpha >= 0 else loss


def smooth_l1(x: jax.Array, beta: float) -> jax.Array:
    """Absolute value, rounded off to a parabola below ``beta`` (Girshick 2015).

    Args:
      x: differences, any shape.
      beta: where both meet; 0 for the absolute value.

    >>> smooth_l1(jnp.array([0.5, -2.0]), 1.0).tolist()
    [0.125, 1.5]
    """
    size = x * jnp.sign(x)  # whose gradient at 0 is 0, that of abs is 1
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * x * x / beta, size - 0.5 * beta)
