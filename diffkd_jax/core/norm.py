"""Batch normalisation with the semantics of the reference code."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each group over all but its last axis, by its own statistics.

    The gradient is written down, for it takes fewer passes over ``x`` than the
    derivative of each operation does. Forward-mode derivatives are not defined.

    Args:
      x: ``[groups, n, ..., c]``.
      scale, bias: ``[c]``.
      epsilon: added to the variance.

    Returns:
      The result, like ``x``; mean and biased variance, ``[groups, 1, ..., c]``.

    >>> x = jnp.arange(8.0).reshape(1, 4, 2)
    >>> y, mean, var = batch_norm(x, jnp.ones(2), jnp.zeros(2), 1e-5)
    >>> mean.tolist(), var.tolist()
    ([[[3.0, 4.0]]], [[[5.0, 5.0]]])
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x, scale, bias, epsilon):
    axes = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axes, keepdims=True)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _backward(epsilon, kept, cotangents):
    del epsilon
    x, scale, mean, inverse = kept
    of_y, of_mean, of_var = cotangents
    axes = tuple(range(1, x.ndim - 1))
    count = x.size // (x.shape[0] * x.shape[-1])
    normal = (x - mean) * inverse
    sums = jnp.sum(of_y, axes, keepdims=True)
    products = jnp.sum(of_y * normal, axes, keepdims=True)
    of_x = (of_y - (sums + normal * products) / count) * (scale * inverse)
    # Of the statistics themselves, as a rule zero. Leaving it out then is no gain: the
    # compiler joins the passes over x in another way.
    of_x = of_x + (of_mean + 2.0 * (x - mean) * of_var) / count
    over_all = lambda v: v.reshape(-1, v.shape[-1]).sum(0)
    return of_x, over_all(products), over_all(sums)


batch_norm.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all but the last axis, statistics in float32.

    Differs from ``flax.linen.BatchNorm`` in two ways that parity needs: the
    running variance is the unbiased estimate, and statistics can be taken over
    groups of consecutive examples, as one process per device does in the
    reference code (32 images per GPU), without any communication.

    Deviation: under ``jit`` with a sharded batch and ``group_size=None``, statistics
    are those of the whole global batch; the official runs take 32 images per GPU.

    Attributes:
      use_running_average: normalise with the running statistics.
      momentum: share of the old running value that is kept, in [0, 1]
        (one minus the number that PyTorch calls momentum).
      epsilon: added to the variance.
      group_size: examples per group of statistics, or None for the whole batch.
      zero_scale: start with a scale of zero, one otherwise.
      dtype: dtype of the result, or None for that of the input.

    Raises:
      ValueError: the batch is not a multiple of ``group_size``, or holds a single
        value per channel in training mode.

    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> y, _ = BatchNorm(False).init_with_output(jax.random.key(0), x)
    >>> bool(jnp.allclose(y.mean(0), 0.0, atol=1e-6))
    True
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    group_size: int | None = None
    zero_scale: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        stat_dtype = jnp.promote_types(x.dtype, jnp.float32)
        init = nn.initializers.constant(0.0 if self.zero_scale else 1.0)
        scale = self.param("scale", init, (channels,), stat_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), stat_dtype)
        mean_ = self.variable("batch_stats", "mean", jnp.zeros, channels, stat_dtype)
        var_ = self.variable("batch_stats", "var", jnp.ones, channels, stat_dtype)
        grouped = self._group(x.astype(stat_dtype))
        if self.use_running_average:
            mean, var = mean_.value, var_.value
            y = (grouped - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        else:
            count = grouped.size // (grouped.shape[0] * channels)
            if count < 2:
                raise ValueError(
                    f"BatchNorm: found one value per channel in shape {x.shape}, "
                    "expected at least 2 in training mode; use a larger batch"
                )
            y, mean, var = batch_norm(grouped, scale, bias, self.epsilon)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                self._update(mean_, mean)
                self._update(var_, unbiased)
        return y.reshape(x.shape).astype(self.dtype or x.dtype)

    def _group(self, x: jax.Array) -> jax.Array:
        size = self.group_size or x.shape[0]
        if self.use_running_average:
            size = x.shape[0]
        if x.shape[0] % size:
            raise ValueError(
                f"BatchNorm.group_size: found {size} for a batch of {x.shape[0]}, "
                "expected a divisor of the batch"
            )
        return x.reshape(-1, size, *x.shape[1:])

    def _update(self, running: nn.Variable, batch: jax.Array) -> None:
        new = batch.reshape(-1, batch.shape[-1]).mean(0)
        running.value = self.momentum * running.value + (1.0 - self.momentum) * new
