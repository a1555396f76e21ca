"""The block of MobileNetV2 and EfficientNet."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from .layers import Layer, drop_path, make_conv


def round_channels(channels: float, *, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is at least 90 % of ``channels``.

    >>> round_channels(35.2), round_channels(18.0), round_channels(10.0)
    (32, 24, 16)
    """
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


class SqueezeExcite(nn.Module):
    """Gates each channel by a small network on the pooled map (Hu et al. 2018).

    Attributes:
      channels: of the hidden layer.
    """

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = jnp.mean(x.astype(jnp.float32), (1, 2), keepdims=True)
        biased = partial(make_conv, kernel_size=1, use_bias=True, dtype=x.dtype)
        hidden = nn.silu(biased(self.channels, name="reduce")(pooled))
        gate = biased(x.shape[-1], name="expand")(hidden)
        return x * nn.sigmoid(gate)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, gate, linear 1x1 projection.

    With a shortcut where stride and channels allow it.

    Attributes:
      channels: output channels.
      layer: :class:`ConvNorm` with the model's options; its activation is used.
      expanded: channels of the depthwise convolution; None for no expansion.
      kernel_size: of the depthwise convolution.
      stride: likewise.
      dilation: likewise.
      squeezed: hidden channels of the gate, 0 for none.
      drop_path: probability of dropping the branch of an example in training.
      train: training mode.
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
    def __call__(self, x: jax.Array) -> jax.Array:
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
