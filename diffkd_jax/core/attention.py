"""Where a map is large, and in which channels (FGD, Yang et al. 2022)."""

import jax
import jax.numpy as jnp


def attention(x: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    """Where a map is large, ``[b, h, w]`` of mean 1, and in which channels, ``[b, c]``.

    >>> positions, channels = attention(jnp.ones((1, 2, 2, 3)), 0.5)
    >>> float(positions.sum()), round(float(channels.sum()), 4)
    (4.0, 3.0)
    """
    b, h, w, c = x.shape
    size = jnp.abs(x)
    logits = size.mean(-1).reshape(b, -1) / temperature
    positions = h * w * jax.nn.softmax(logits).reshape(b, h, w)
    return positions, c * jax.nn.softmax(size.mean((1, 2)) / temperature)
