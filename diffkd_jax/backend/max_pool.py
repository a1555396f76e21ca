"""The maximum over windows of a map, on CPU as the maximum of shifted maps.

Costs: an operation to compile for each element of a window.

Gains: pooling 8 maps of 112x112x64 as ResNet's stem does, with the gradient, takes 14
to 16 ms and not 68 to 72 ms on two cores, and 21 to 28 ms and not 103 to 112 ms on one
(jax 0.10.2 and 0.12.0). XLA finds the winners of the windows a second time for the
gradient, and carries four arrays of their places along.

Delete when: XLA's gradient of a maximum over windows is as fast on CPU.
"""

import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Pair = tuple[int, int]


def max_pool(
    x: Float[Array, "b h w c"],
    window: Pair,
    strides: Pair,
    padding: Sequence[Pair] = ((0, 0), (0, 0)),
) -> Float[Array, "b _ _ c"]:
    """Returns the maximum over windows, as ``flax.linen.max_pool`` does.

    The gradient goes to the first maximum of a window, in the order of its elements.

    Args:
      x: ``[b, h, w, c]``, maps.
      window: rows and columns of a window.
      strides: strides of rows and columns.
      padding: rows and columns added before and after; they never win.

    >>> max_pool(jnp.arange(9.0).reshape(1, 3, 3, 1), (2, 2), (1, 1))[0, :, :, 0]
    Array([[4., 5.],
           [7., 8.]], dtype=float32)
    """
    if jax.default_backend() != "cpu":
        pooled: jax.Array = nn.max_pool(x, window, strides, padding)
        return pooled
    margins = ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0))
    padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), margins)
    axes = zip(padded.shape[1:3], window, strides, strict=True)
    reach = [(size - side) // step * step + 1 for size, side, step in axes]
    if min(reach) < 1:  # no window fits, so the result is empty
        return jnp.asarray(nn.max_pool(x, window, strides, padding))

    def shift(row: int, column: int) -> jax.Array:
        stops = (x.shape[0], row + reach[0], column + reach[1], x.shape[3])
        return jax.lax.slice(padded, (0, row, column, 0), stops, (1, *strides, 1))

    def later_if_greater(first: jax.Array, later: jax.Array) -> jax.Array:
        # A window that holds a NaN gives NaN, as in XLA.
        return jnp.where((later > first) | jnp.isnan(later), later, first)

    elements = itertools.product(*map(range, window))
    return functools.reduce(later_if_greater, itertools.starmap(shift, elements))
