"""Flax modules of DiffKD: autoencoder, noise predictor and noise adapter.

All of them take and return maps ``[b, h, w, c]``; vectors are 1x1 maps. Layers, widths,
biases and initialisation follow the official code, which has PyTorch's defaults
(uniform in +-1/sqrt(fan_in), biases included).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from .conv_layers import apply_conv, uniform_bias, uniform_fan_in
from .norm import BatchNorm

KERNEL_SIZES = (1, 3)
# The official embedding has 1280 rows, of which the first num_train_steps are used.
TIME_ROWS = 1280


class DiffusionBottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions with batch norm, no final ReLU.

    Attributes:
      reduction: number of input channels divided by the number of inner channels.
      norm: batch-norm module class, called as ``norm(use_running_average=...)``.
      dtype: compute dtype, or None for that of the input.

    >>> import jax
    >>> x = jnp.ones((2, 4, 4, 8))
    >>> y, _ = DiffusionBottleneck().init_with_output(jax.random.key(0), x, train=True)
    >>> y.shape
    (2, 4, 4, 8)
    """

    reduction: int = 4
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Maps ``[b, h, w, c]`` to the same shape."""
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
    """The diffusion model, which predicts the noise in ``x_t`` (eq. 4).

    ``kernel_size=3``: two bottlenecks, a 1x1 convolution and a batch norm.
    ``kernel_size=1``: two two-layer perceptrons of width 4c, no residual.

    In training mode, all examples of a denoising step share one time step, and batch
    norm cancels everything that is constant over the batch. So denoising does not
    depend on the time step; only the diffusion loss does. The official code behaves the
    same way.

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      num_train_steps: number of diffusion time steps.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> import jax
    >>> x_t, t = jnp.ones((2, 4, 4, 8)), jnp.array([0, 999])
    >>> module = NoisePredictor()
    >>> eps, _ = module.init_with_output(jax.random.key(0), x_t, t, train=True)
    >>> eps.shape
    (2, 4, 4, 8)
    """

    kernel_size: int = 3
    num_train_steps: int = 1000
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x_t: Float[Array, "b h w c"], t: Int[Array, " b"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Predicts the noise in a batch of noisy features.

        Args:
          x_t: ``[b, h, w, c]``, noisy features.
          t: int ``[b]``, time steps, from 0 to ``num_train_steps - 1``.
          train: if true, use and update batch statistics.

        Returns:
          ``[b, h, w, c]``, the predicted noise.
        """
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
            x = apply_conv(x, channels, dtype=self.dtype, name="conv")
            normalised: Array = norm("norm")(x)
            return normalised
        x = nn.relu(
            norm("norm0")(apply_conv(x, 4 * channels, dtype=self.dtype, name="conv0"))
        )
        x = norm("norm1")(apply_conv(x, channels, dtype=self.dtype, name="conv1"))
        x = nn.relu(
            norm("norm2")(apply_conv(x, 4 * channels, dtype=self.dtype, name="conv2"))
        )
        return apply_conv(x, channels, dtype=self.dtype, name="conv3")


class NoiseAdapter(nn.Module):
    """A network that predicts the share ``gamma`` of the student to keep (eq. 8).

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> import jax
    >>> x = jnp.ones((2, 4, 4, 8))
    >>> gamma, _ = NoiseAdapter().init_with_output(jax.random.key(0), x, train=True)
    >>> gamma.shape
    (2,)
    """

    kernel_size: int = 3
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, " b"]:
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
    """A linear autoencoder: 1x1 convolution, batch norm, 1x1 convolution (eq. 6).

    Attributes:
      latent_channels: number of channels of the latent.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.

    >>> import jax
    >>> x = jnp.ones((2, 4, 4, 8))
    >>> (latent, reconstruction), _ = AutoEncoder(3).init_with_output(
    ...     jax.random.key(0), x, train=True)
    >>> latent.shape, reconstruction.shape
    ((2, 4, 4, 3), (2, 4, 4, 8))
    """

    latent_channels: int
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> tuple[Float[Array, "b h w latent"], Float[Array, "b h w c"]]:
        """Maps ``[b, h, w, c]`` to latent ``[b, h, w, latent]`` and reconstruction."""
        latent = apply_conv(x, self.latent_channels, dtype=self.dtype, name="encoder")
        latent = self.norm(use_running_average=not train, name="norm")(latent)
        return latent, apply_conv(latent, x.shape[-1], dtype=self.dtype, name="decoder")
