"""Flax modules of DiffKD: autoencoder, noise predictor, noise adapter.

All take and return maps ``[b, h, w, c]``; vectors are maps of 1x1. Layers,
widths, biases and initialisation follow the official code, whose defaults are
those of PyTorch (uniform in +-1/sqrt(fan_in), biases included).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..backend.small_convolution import convolve
from .norm import BatchNorm

KERNEL_SIZES = (1, 3)
# The official table holds 1280 rows of which the first num_train_steps are read.
TIME_ROWS = 1280

# PyTorch's default initialisation of linear layers and convolutions.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(fan_in: int) -> Callable:
    """Bias initialiser, uniform in +-1/sqrt(fan_in), as PyTorch's default.

    >>> b = uniform_bias(4)(jax.random.key(0), (100,), jnp.float32)
    >>> bool(jnp.abs(b).max() <= 0.5)
    True
    """
    bound = 1 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def apply_conv(
    x: jax.Array, channels: int, kernel_size: int = 1, *, dtype: Any, name: str
) -> jax.Array:
    """Applies a convolution with bias, stride 1 and symmetric padding.

    To be called inside a compact Flax module, which then owns the layer ``name``. It
    computes in ``dtype``, or without one in that of ``x``.
    """
    return conv_layer(x, channels, kernel_size, dtype=dtype, name=name)(x)


def conv_layer(
    x: jax.Array,
    channels: int,
    kernel_size: int = 1,
    *,
    dtype: Any = None,
    name: str | None = None,
) -> nn.Conv:
    """The layer of :func:`apply_conv` for an input like ``x``."""
    if dtype is None and jnp.issubdtype(x.dtype, jnp.floating):
        dtype = x.dtype  # else Flax promotes to the parameters' float32
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


class DiffusionBottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions with batch norm, no last ReLU.

    Attributes:
      reduction: input channels per inner channel.
      norm: batch-norm module class, called as ``norm(use_running_average=...)``.
      dtype: compute dtype, or None for that of the input.

    >>> x = jnp.ones((2, 4, 4, 8))
    >>> y, _ = DiffusionBottleneck().init_with_output(jax.random.key(0), x, train=True)
    >>> y.shape
    (2, 4, 4, 8)
    """

    reduction: int = 4
    norm: Callable = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        # Deviation: at least one channel; the official block fails when narrower.
        inner = max(1, x.shape[-1] // self.reduction)
        y = x
        for i, (channels, kernel) in enumerate(
            ((inner, 1), (inner, 3), (x.shape[-1], 1))
        ):
            y = apply_conv(y, channels, kernel, dtype=self.dtype, name=f"conv{i}")
            y = self.norm(use_running_average=not train, name=f"norm{i}")(y)
            y = nn.relu(y) if i < 2 else y
        return x + y


class NoisePredictor(nn.Module):
    """The diffusion model: predicts the noise in ``x_t`` (eq. 4).

    ``kernel_size=3``: two bottlenecks, a 1x1 convolution and a batch norm.
    ``kernel_size=1``: two two-layer perceptrons of width 4c, no residual.

    In training mode, all examples of a denoising step share one time step, and
    batch norm cancels what is constant over the batch: denoising does not depend
    on the time step, only the diffusion loss does. This is the official behaviour.

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      num_train_steps: number of diffusion time steps.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> x_t, t = jnp.ones((2, 4, 4, 8)), jnp.array([0, 999])
    >>> module = NoisePredictor()
    >>> eps, _ = module.init_with_output(jax.random.key(0), x_t, t, train=True)
    >>> eps.shape
    (2, 4, 4, 8)
    """

    kernel_size: int = 3
    num_train_steps: int = 1000
    norm: Callable = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array, *, train: bool) -> jax.Array:
        channels = x_t.shape[-1]
        embedding = nn.Embed(
            max(TIME_ROWS, self.num_train_steps),
            channels,
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype or x_t.dtype,
            param_dtype=jnp.promote_types(x_t.dtype, jnp.float32),
            name="time_embedding",
        )(t)
        x = x_t + embedding[:, None, None, :]
        norm = lambda name: self.norm(use_running_average=not train, name=name)
        if self.kernel_size == 3:
            for i in range(2):
                x = DiffusionBottleneck(
                    4, self.norm, self.dtype, name=f"bottleneck{i}"
                )(x, train=train)
            return norm("norm")(apply_conv(x, channels, dtype=self.dtype, name="conv"))
        x = nn.relu(
            norm("norm0")(apply_conv(x, 4 * channels, dtype=self.dtype, name="conv0"))
        )
        x = norm("norm1")(apply_conv(x, channels, dtype=self.dtype, name="conv1"))
        x = nn.relu(
            norm("norm2")(apply_conv(x, 4 * channels, dtype=self.dtype, name="conv2"))
        )
        return apply_conv(x, channels, dtype=self.dtype, name="conv3")


class NoiseAdapter(nn.Module):
    """Predicts the share ``gamma`` of the student feature to keep (eq. 8).

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> x = jnp.ones((2, 4, 4, 8))
    >>> gamma, _ = NoiseAdapter().init_with_output(jax.random.key(0), x, train=True)
    >>> gamma.shape
    (2,)
    """

    kernel_size: int = 3
    norm: Callable = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[b, h, w, c]`` to gamma ``[b]``, float32 or wider, in (0, 1)."""
        channels = x.shape[-1]
        if self.kernel_size == 3:
            x = DiffusionBottleneck(8, self.norm, self.dtype, name="bottleneck")(
                x, train=train
            )
        else:
            norm = lambda name: self.norm(use_running_average=not train, name=name)
            x = apply_conv(x, 2 * channels, dtype=self.dtype, name="conv0")
            x = apply_conv(
                nn.relu(norm("norm0")(x)), channels, dtype=self.dtype, name="conv1"
            )
            x = norm("norm1")(x)
        pooled = jnp.mean(x.astype(jnp.promote_types(x.dtype, jnp.float32)), (1, 2))
        scores = nn.Dense(
            2,
            kernel_init=uniform_fan_in,
            bias_init=uniform_bias(channels),
            param_dtype=pooled.dtype,
            name="dense",
        )(pooled)
        return nn.softmax(scores)[:, 0]


class AutoEncoder(nn.Module):
    """Linear autoencoder: 1x1 convolution and batch norm, 1x1 convolution (eq. 6).

    Attributes:
      latent_channels: channels of the latent.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> x = jnp.ones((2, 4, 4, 8))
    >>> (latent, reconstruction), _ = AutoEncoder(3).init_with_output(
    ...     jax.random.key(0), x, train=True)
    >>> latent.shape, reconstruction.shape
    ((2, 4, 4, 3), (2, 4, 4, 8))
    """

    latent_channels: int
    norm: Callable = BatchNorm
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Maps ``[b, h, w, c]`` to (latent ``[b, h, w, latent]``, reconstruction)."""
        latent = apply_conv(x, self.latent_channels, dtype=self.dtype, name="encoder")
        latent = self.norm(use_running_average=not train, name="norm")(latent)
        return latent, apply_conv(latent, x.shape[-1], dtype=self.dtype, name="decoder")
