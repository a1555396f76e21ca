"""Convolutions with PyTorch's default initialisation."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from ..backend.convolution import convolve

# PyTorch's default initialisation of linear layers and convolutions.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(fan_in: int) -> nn.initializers.Initializer:
    """Returns a bias initialiser, uniform in +-1/sqrt(fan_in), as PyTorch's default.

    Args:
      fan_in: number of inputs of one output, at least 1.

    >>> b = uniform_bias(4)(jax.random.key(0), (100,), jnp.float32)
    >>> bool(jnp.abs(b).max() <= 0.5)
    True
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def apply_conv(
    x: Float[Array, "b h w c"],
    channels: int,
    kernel_size: int = 1,
    *,
    dtype: DTypeLike | None,
    name: str,
) -> Float[Array, "b h w channels"]:
    """Applies a new convolution with bias, stride 1 and symmetric padding.

    Call it inside a compact Flax module, which then owns the layer ``name``.

    Args:
      x: ``[b, h, w, c]``.
      channels: number of output channels.
      kernel_size: side of the kernel, odd.
      dtype: compute dtype, or None for that of ``x``.
      name: name of the layer.

    Returns:
      ``[b, h, w, channels]``.

    >>> class Layer(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return apply_conv(x, 5, 3, dtype=None, name="conv")
    >>> x = jnp.ones((1, 4, 4, 2))
    >>> jax.eval_shape(Layer().init_with_output, jax.random.key(0), x)[0].shape
    (1, 4, 4, 5)
    """
    return conv_layer(x, channels, kernel_size, dtype=dtype, name=name)(x)


def conv_layer(
    x: Num[Array, "b *dims c"],
    channels: int,
    kernel_size: int = 1,
    *,
    dtype: DTypeLike | None = None,
    name: str | None = None,
) -> nn.Conv:
    """Returns the layer of :func:`apply_conv` for an input like ``x``.

    Args:
      x: ``[b, ..., c]``, or only its shape and dtype. The kernel is that of maps,
        ``[k, k, c, channels]``, whatever the rank.
      channels: number of output channels.
      kernel_size: side of the kernel, odd.
      dtype: compute dtype, or None for that of ``x``.
      name: name of the layer, or None for Flax's default.

    >>> conv_layer(jnp.ones((1, 4, 4, 2)), 5, 3).kernel_size
    (3, 3)
    """
    if dtype is None and jnp.issubdtype(x.dtype, jnp.floating):
        dtype = x.dtype  # otherwise Flax promotes to the parameters' float32
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        padding=kernel_size // 2,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(x.shape[-1] * kernel_size**2),
        conv_general_dilated=convolve,
        dtype=dtype,
        param_dtype=jnp.promote_types(x.dtype, jnp.float32),
        name=name,
    )
