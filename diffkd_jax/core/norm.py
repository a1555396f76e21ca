"""Batch normalisation with the semantics of the reference code."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Results = tuple[
    Float[Array, "groups n *dims c"],
    Float[Array, "groups *ones c"],
    Float[Array, "groups *ones c"],
]
Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Float[Array, "groups n *dims c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
) -> Results:
    """Normalises each group by its own statistics, over all axes but the last.

    The function has a gradient rule of its own, which reads ``x`` fewer times than
    automatic differentiation would. Forward-mode derivatives are not defined.

    Args:
      x: ``[groups, n, ..., c]``.
      scale: ``[c]``.
      bias: ``[c]``.
      epsilon: added to the variance.

    Returns:
      The result, like ``x``; the mean and the biased variance, ``[groups, 1, ..., c]``.

    >>> x = jnp.arange(8.0).reshape(1, 4, 2)
    >>> y, mean, var = batch_norm(x, jnp.ones(2), jnp.zeros(2), 1e-5)
    >>> mean.tolist(), var.tolist()
    ([[[3.0, 4.0]]], [[[5.0, 5.0]]])
    """
    return _forward(x, scale, bias, epsilon)[0]


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[Results, Residuals]:
    """Returns the results of :func:`batch_norm`, and what its gradient needs."""
    axes = tuple(range(1, x.ndim - 1))
    mean = jnp.mean(x, axes, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axes, keepdims=True)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    return (y, mean, var), (x, scale, mean, inverse)


def _backward(
    epsilon: float, residuals: Residuals, cotangents: Results
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the gradients with respect to ``x``, ``scale`` and ``bias``."""
    del epsilon
    x, scale, mean, inverse = residuals
    of_y, of_mean, of_var = cotangents
    axes = tuple(range(1, x.ndim - 1))
    count = x.size // (x.shape[0] * x.shape[-1])
    normal = (x - mean) * inverse
    sums = jnp.sum(of_y, axes, keepdims=True)
    products = jnp.sum(of_y * normal, axes, keepdims=True)
    of_x = (of_y - (sums + normal * products) / count) * (scale * inverse)
    # The gradient through the statistics themselves, which is zero in training. Leaving
    # it out gains nothing: the compiler then fuses the passes over x differently.
    of_x = of_x + (of_mean + 2.0 * (x - mean) * of_var) / count
    over_all = lambda v: v.reshape(-1, v.shape[-1]).sum(0)
    return of_x, over_all(products), over_all(sums)


batch_norm.defvjp(_forward, _backward)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, with statistics in float32.

    It differs from ``flax.linen.BatchNorm`` in two ways, so that results agree with the
    official code. First, the running variance is the unbiased estimate. Second, each
    group of ``group_size`` consecutive examples can have its own statistics, without
    communication between devices. In the official code, each GPU normalises its own 32
    images.

    Deviation: under ``jit`` with a sharded batch and ``group_size=None``, statistics
    are those of the whole global batch; the official runs take 32 images for each GPU.

    Attributes:
      use_running_average: normalise with the running statistics.
      momentum: share of the old running value that is kept, in [0, 1] (one minus the
        number that PyTorch calls momentum).
      epsilon: added to the variance.
      group_size: number of examples in a group of statistics, or None for the whole
        batch.
      zero_scale: initialise the scale with zeros instead of ones.
      dtype: dtype of the result, or None for that of the input.

    Raises:
      ValueError: the batch size is not a multiple of ``group_size``, or a channel has a
        single value in training mode.

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
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b *dims c"]) -> Float[Array, "b *dims c"]:
        """Normalises ``[b, ..., c]``; training mode updates running statistics."""
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
        """Splits the batch into groups, ``[groups, n, ..., c]``."""
        size = self.group_size or x.shape[0]
        if self.use_running_average:
            size = x.shape[0]
        if x.shape[0] % size:
            raise ValueError(
                f"BatchNorm.group_size: found {size} for a batch of {x.shape[0]}, "
                "expected a divisor of the batch"
            )
        return x.reshape(-1, size, *x.shape[1:])

    def _update(self, running: nn.Variable[jax.Array], batch: jax.Array) -> None:
        """Moves a running statistic towards that of the batch."""
        new = batch.reshape(-1, batch.shape[-1]).mean(0)
        running.value = self.momentum * running.value + (1.0 - self.momentum) * new


class TimeNorm(nn.Module):
    """Normalisation of each example by itself, with scale and shift set by its time.

    The statistics are those of all values of one example. Batch norm would cancel a
    shift that all examples share, and so would cancel the time step in denoising. It
    would also normalise by other statistics in denoising than in the diffusion loss.

    Attributes:
      epsilon: added to the variance.
      dtype: dtype of the result, or None for that of the input.

    >>> x, time = jnp.arange(8.0).reshape(2, 4), jnp.ones((2, 3))
    >>> y, variables = TimeNorm().init_with_output(jax.random.key(0), x, time)
    >>> bool(jnp.allclose(y.mean(1), 0.0, atol=1e-6)), sorted(variables)
    (True, ['params'])
    """

    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *dims c"], time: Float[Array, "b d"]
    ) -> Float[Array, "b *dims c"]:
        """Normalises ``[b, ..., c]`` and applies scale and shift.

        Args:
          x: ``[b, ..., c]``.
          time: ``[b, d]``, features of each example's time step. The scale starts at 1
            and the shift at 0, whatever the time.
        """
        dtype = jnp.promote_types(x.dtype, jnp.float32)
        wide = x.astype(dtype)
        axes = tuple(range(1, x.ndim))
        mean = jnp.mean(wide, axes, keepdims=True)
        var = jnp.mean(jnp.square(wide - mean), axes, keepdims=True)
        layer = nn.Dense(
            2 * x.shape[-1],
            kernel_init=nn.initializers.zeros,
            param_dtype=dtype,
            name="time",
        )
        ones = (1,) * (x.ndim - 2)
        scale, shift = jnp.split(layer(time.astype(dtype)), 2, -1)
        scale, shift = (v.reshape(-1, *ones, x.shape[-1]) for v in (scale, shift))
        y = (wide - mean) * jax.lax.rsqrt(var + self.epsilon) * (1.0 + scale) + shift
        return y.astype(self.dtype or x.dtype)
