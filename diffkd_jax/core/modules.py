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
from .diffusion import time_features
from .norm import BatchNorm, TimeNorm

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

    reduction: float = 4
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b d"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "b h w c"]:
        """Maps ``[b, h, w, c]`` to the same shape.

        Args:
          x: ``[b, h, w, c]``.
          time: ``[b, d]``, features of the time steps for :class:`TimeNorm`, which
            takes the place of batch norm; None for batch norm.
          train: if true, batch norm uses and updates batch statistics.
        """
        normalise = _normaliser(self.norm, self.dtype, time, train)
        # Deviation: at least one channel; the official block fails when narrower.
        inner = max(1, int(x.shape[-1] // self.reduction))
        y = x
        for i, (channels, kernel) in enumerate(
            ((inner, 1), (inner, 3), (x.shape[-1], 1))
        ):
            y = apply_conv(y, channels, kernel, dtype=self.dtype, name=f"conv{i}")
            y = normalise(y, f"norm{i}")
            y = nn.relu(y) if i < 2 else y
        return x + y


def _normaliser(
    norm: Callable[..., Any], dtype: DTypeLike | None, time: Array | None, train: bool
) -> Callable[[Array, str], Array]:
    """Returns a function that applies a new normalisation layer to ``x``, by its name.

    The layer is a batch norm, or a :class:`TimeNorm` if there are features of the time.
    """

    def normalise(x: Array, name: str) -> Array:
        if time is not None:
            return TimeNorm(dtype=dtype, name=name)(x, time)
        normalised: Array = norm(use_running_average=not train, name=name)(x)
        return normalised

    return normalise


class NoisePredictor(nn.Module):
    """The diffusion model, which predicts the noise in ``x_t`` (eq. 4).

    ``kernel_size=3``: two bottlenecks, a 1x1 convolution and a batch norm.
    ``kernel_size=1``: two two-layer perceptrons of width 4c, no residual.

    In training mode, all examples of a denoising step share one time step, and batch
    norm cancels everything that is constant over the batch. So denoising does not
    depend on the time step; only the diffusion loss does. The official code behaves the
    same way.

    Deviation: with ``time_aware``, which is off by default, :class:`TimeNorm` takes the
    place of the table of time embeddings and of all batch norms, and a share of ``x_t``
    that depends on the time step is added to the output. Then denoising depends on the
    time step, and it is the same function as in the diffusion loss.

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      num_train_steps: number of diffusion time steps.
      norm: batch-norm module class.
      dtype: compute dtype, or None for that of the input.
      width: factor of the inner widths, which are c/4 for maps and 4c for vectors.
      time_aware: if true, the time step sets scale and shift after each normalisation.

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
    width: float = 1.0
    time_aware: bool = False

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
        if not self.time_aware:
            return self._apply_layers(x_t + self._embed(x_t, t), None, train)
        time = time_features(t, self.num_train_steps)
        eps = self._apply_layers(x_t, time, train)
        # The share of x_t in its noise rises with the time step, up to 1. The layers
        # cannot pass x_t on, since they normalise it. Logits are large, so the features
        # of the time have a norm of 1 here. With their own norm of 4, one of three
        # predictors of logits ended at a loss of 0.48 instead of 0.34.
        share = nn.Dense(
            x_t.shape[-1],
            kernel_init=nn.initializers.zeros,
            param_dtype=time.dtype,
            name="time_share",
        )(time / 4)
        return eps + (share[:, None, None, :] * x_t).astype(eps.dtype)

    def _apply_layers(self, x: Array, time: Array | None, train: bool) -> Array:
        """Returns the output of the convolutions and normalisations."""
        channels = x.shape[-1]
        normalise = _normaliser(self.norm, self.dtype, time, train)
        if self.kernel_size == 3:
            for i in range(2):
                x = DiffusionBottleneck(
                    4 / self.width, self.norm, self.dtype, name=f"bottleneck{i}"
                )(x, time, train=train)
            x = apply_conv(x, channels, dtype=self.dtype, name="conv")
            return normalise(x, "norm")
        inner = max(1, int(4 * channels * self.width))
        for i, width in enumerate((inner, channels, inner)):
            x = apply_conv(x, width, dtype=self.dtype, name=f"conv{i}")
            x = normalise(x, f"norm{i}")
            x = x if i == 1 else nn.relu(x)
        return apply_conv(x, channels, dtype=self.dtype, name="conv3")

    def _embed(self, x: Array, t: Array) -> Array:
        """Returns the time embedding ``[b, 1, 1, c]`` of the paper."""
        table = nn.Embed(
            max(TIME_ROWS, self.num_train_steps),
            x.shape[-1],
            embedding_init=nn.initializers.normal(1.0),
            dtype=self.dtype or x.dtype,
            param_dtype=jnp.promote_types(x.dtype, jnp.float32),
            name="time_embedding",
        )
        return table(t)[:, None, None, :]


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
