"""The block of MobileNetV2 and EfficientNet."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from .layers import Layer, drop_path, make_conv


def round_channels(channels: float, *, divisor: int = 8) -> int:
    """Rounds to the nearest multiple of ``divisor``, and up if that is below 90 %.

    Args:
      channels: number of channels times a factor.
      divisor: divisor of the result, which is also its minimum.

    >>> round_channels(35.2), round_channels(18.0), round_channels(10.0)
    (32, 24, 16)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


class SqueezeExcite(nn.Module):
    """A gate for each channel, computed from the pooled map (Hu et al. 2018).

    Attributes:
      channels: number of channels of the hidden layer.

    >>> import jax
    >>> y, _ = jax.eval_shape(
    ...     SqueezeExcite(2).init_with_output, jax.random.key(0), jnp.ones((1, 6, 6, 8))
    ... )
    >>> y.shape
    (1, 6, 6, 8)
    """

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Multiplies each channel of a map by its gate.

        Args:
          x: ``[b, h, w, c]``.
        """
        pooled = jnp.mean(x.astype(jnp.float32), (1, 2), keepdims=True)
        biased = partial(make_conv, kernel_size=1, use_bias=True, dtype=x.dtype)
        hidden = nn.silu(biased(self.channels, name="reduce")(pooled))
        gate = biased(x.shape[-1], name="expand")(hidden)
        return x * nn.sigmoid(gate)


class InvertedResidual(nn.Module):
    """A block of 1x1 expansion, depthwise convolution, gate and linear 1x1 projection.

    There is a shortcut if the stride is 1 and the number of channels stays the same.

    Attributes:
      channels: number of output channels.
      layer: :class:`ConvNorm` with the options of the model; its activation is used.
      expanded: number of channels of the depthwise convolution; None for no expansion.
      kernel_size: side of the depthwise kernel.
      stride: stride of the depthwise convolution.
      dilation: dilation of the depthwise convolution.
      squeezed: number of hidden channels of the gate, 0 for no gate.
      drop_path: probability that the branch of an example is dropped in training.
      train: whether the block is trained.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> block = InvertedResidual(16, ConvNorm, 48, stride=2)
    >>> y, _ = jax.eval_shape(
    ...     block.init_with_output, jax.random.key(0), jnp.ones((1, 6, 6, 8)))
    >>> y.shape
    (1, 3, 3, 16)
    """

    channels: int
    layer: Layer
    expanded: int | None
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    squeezed: int = 0
    drop_path: float = 0.0
    train: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        y = x
        if self.expanded is not None:
            y = self.layer(self.expanded, name="expand")(y)
        y = self.layer(
            y.shape[-1],
            self.kernel_size,
            self.stride,
            groups=y.shape[-1],
            dilation=self.dilation,
            name="depthwise",
        )(y)
        if self.squeezed:
            y = SqueezeExcite(self.squeezed, name="squeeze")(y)
        y = self.layer(self.channels, activation=None, name="project")(y)
        if self.stride == 1 and y.shape == x.shape:
            y = x + drop_path(y, self.drop_path, train=self.train)
        return y
