"""Elementwise losses of detectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num


def focal(
    logits: Float[Array, "*dims"],
    targets: Num[Array, "*dims"],
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Float[Array, "*dims"]:
    """Computes the focal loss of binary logits (Lin et al. 2017, eq. 5).

    Args:
      logits: any shape, floating.
      targets: the same shape, 0 or 1.
      alpha: weight of positives; negatives have ``1 - alpha``. A negative value
        switches the weighting off.
      gamma: focusing exponent, 0 or more; a larger one lowers the loss of
        well-classified examples.

    Returns:
      The same shape, 0 or more, finite for all finite logits.

    >>> focal(jnp.array([0.0, -200.0]), jnp.array([1.0, 1.0])).round(4).tolist()
    [0.043299999088048935, 50.0]
    """
    positive = targets > 0.5
    log_right = jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
    log_wrong = jax.nn.log_sigmoid(jnp.where(positive, -logits, logits))
    loss = -log_right * jnp.exp(gamma * log_wrong)
    return loss * jnp.where(positive, alpha, 1 - alpha) if alpha >= 0 else loss


def smooth_l1(x: Float[Array, "*dims"], beta: float) -> Float[Array, "*dims"]:
    """Computes the smooth L1 loss of each difference (Girshick 2015).

    It is ``x^2 / (2 beta)`` for ``|x|`` below ``beta``, and ``|x| - beta / 2`` above.

    Args:
      x: any shape, differences.
      beta: value of ``|x|`` at which parabola and line meet, 0 or more; 0 gives
        ``|x|``.

    >>> smooth_l1(jnp.array([0.5, -2.0]), 1.0).tolist()
    [0.125, 1.5]
    """
    size = x * jnp.sign(x)  # its gradient at 0 is 0; that of jnp.abs is 1
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * x * x / beta, size - 0.5 * beta)
