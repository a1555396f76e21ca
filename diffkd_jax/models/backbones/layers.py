"""Layers that the backbones share."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...backend.depthwise import depthwise
from ...backend.wide_convolution import convolve_in_parts
from ...core.modules import uniform_bias, uniform_fan_in
from ...core.norm import BatchNorm

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# ``ConvNorm`` with the options that all layers of a model share.
Layer = Callable[..., Any]


def make_conv(
    channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    use_bias: bool = False,
    kernel_init: Callable = fan_out_normal,
    bias_init: Callable = nn.initializers.zeros,
    dtype: Any = None,
    name: str,
) -> nn.Conv:
    """Makes a convolution, with He initialisation by fan-out if none is given.

    Args:
      padding: "symmetric" is PyTorch's, "same" TensorFlow's; they differ by one pixel
        where the stride is 2.
    """
    symmetric = dilation * (kernel_size // 2)
    own = groups > 1 and groups == channels
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        (stride, stride),
        padding="SAME" if padding == "same" else symmetric,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=depthwise if own else convolve_in_parts,
        dtype=dtype,
        name=name,
    )


class ConvNorm(nn.Module):
    """Convolution, batch norm, activation; the norm may be folded away.

    Applied to variables from which :func:`diffkd_jax.models.fold` has removed the norm,
    it is a convolution with bias.

    Attributes:
      channels: output channels.
      kernel_size: side of the kernel.
      stride: of the convolution.
      train: normalise with batch statistics and update the running ones.
      activation: elementwise function, or None.
      groups: groups of channels; depthwise if equal to the channels.
      dilation: spacing of the kernel's taps.
      padding: "symmetric" or "same", see :func:`make_conv`.
      use_bias: bias in front of the norm, as some references have.
      kernel_init: of the convolution.
      zero_scale: start with the norm's scale at zero.
      epsilon, momentum, group_size: of :class:`diffkd_jax.core.norm.BatchNorm`.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: folded variables in training mode.

    >>> layer = ConvNorm(8, 3, stride=2)
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 6, 6, 3)))
    >>> y.shape
    (1, 3, 3, 8)
    """

    channels: int
    kernel_size: int = 1
    stride: int = 1
    train: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    groups: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    use_bias: bool = False
    kernel_init: Callable = fan_out_normal
    zero_scale: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        folded = not self.is_initializing() and "norm" not in self.variables["params"]
        if folded and self.train:
            raise ValueError(
                f"{'/'.join(self.path)}: found folded variables, expected unfolded "
                "ones in training mode"
            )
        x = make_conv(
            self.channels,
            self.kernel_size,
            stride=self.stride,
            groups=self.groups,
            dilation=self.dilation,
            padding=self.padding,
            use_bias=self.use_bias or folded,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if not folded:
            x = BatchNorm(
                not self.train,
                momentum=self.momentum,
                epsilon=self.epsilon,
                group_size=self.group_size,
                zero_scale=self.zero_scale,
                dtype=self.dtype,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


def layer_of(model: nn.Module, train: bool, **options: Any) -> Layer:
    """:class:`ConvNorm` with the ``norm_group_size`` and ``dtype`` of a model."""
    group_size, dtype = model.norm_group_size, model.dtype
    return partial(ConvNorm, train=train, group_size=group_size, dtype=dtype, **options)


def drop_path(x: jax.Array, rate: float, *, train: bool) -> jax.Array:
    """Stochastic depth: drops whole examples ``x[i]`` with probability ``rate``.

    To be called inside a compact Flax module; draws from the stream "dropout".
    """
    axes = tuple(range(1, x.ndim))
    return nn.Dropout(rate, broadcast_dims=axes, deterministic=not train)(x)


def pool_and_classify(
    features: jax.Array, num_classes: int, *, dropout: float = 0.0, train: bool = False
) -> dict[str, jax.Array]:
    """``pooled`` (global average, ``[b, c]``) and ``logits``, both float32.

    Of no classes there are no logits. To be called inside a compact Flax module, which
    then owns the layer ``head``.
    """
    pooled = jnp.mean(features.astype(jnp.float32), (1, 2))
    if not num_classes:
        return {"pooled": pooled}
    kept = nn.Dropout(dropout, deterministic=not train)(pooled)
    logits = nn.Dense(
        num_classes,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(pooled.shape[-1]),
        name="head",
    )(kept)
    return {"pooled": pooled, "logits": logits}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU at the end.

    Attributes:
      channels: output channels.
      layer: :class:`ConvNorm` with the model's options.
      stride: of the first convolution and the shortcut.
      dilations: of the two convolutions.
      zero_scale: start as the identity.
    """

    channels: int
    layer: Layer
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, linear = self.channels, {"activation": None}
        first = {"stride": self.stride, "dilation": self.dilations[0]}
        second = linear | {"dilation": self.dilations[1], "zero_scale": self.zero_scale}
        y = self.layer(c, 3, **first, name="conv0")(x)
        y = self.layer(c, 3, **second, name="conv1")(y)
        if x.shape[-1] != c or self.stride != 1:
            x = self.layer(c, 1, stride=self.stride, **linear, name="shortcut")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (maybe grouped), 1x1 convolutions and a shortcut, ReLU.

    Attributes:
      channels: output channels, four times the nominal width.
      layer: :class:`ConvNorm` with the model's options.
      stride: of the 3x3 convolution and the shortcut.
      dilations: the 3x3 convolution takes the first.
      zero_scale: start as the identity.
      groups: of the 3x3 convolution.
      group_width: channels per group, for a nominal width of 64.
      stride_in_first: stride in the first convolution instead of the 3x3 one, as in the
        ResNets of Caffe.
    """

    channels: int
    layer: Layer
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    zero_scale: bool = False
    groups: int = 1
    group_width: int = 64
    stride_in_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, linear = self.channels, {"activation": None}
        inner = self.groups * (c // 4 * self.group_width // 64)
        first, second = (self.stride, 1) if self.stride_in_first else (1, self.stride)
        middle = {"stride": second, "dilation": self.dilations[0]}
        y = self.layer(inner, 1, stride=first, name="conv0")(x)
        y = self.layer(inner, 3, groups=self.groups, **middle, name="conv1")(y)
        y = self.layer(c, 1, zero_scale=self.zero_scale, **linear, name="conv2")(y)
        if x.shape[-1] != c or self.stride != 1:
            x = self.layer(c, 1, stride=self.stride, **linear, name="shortcut")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """A run of residual blocks, the first of which may stride.

    Attributes:
      num_blocks: number of blocks.
      channels: output channels of every block.
      layer: :class:`ConvNorm` with the model's options.
      stride: of the first block.
      dilations: of the stage before and of this one; they differ where dilation
        replaces a stride.
      block: called as ``block(channels, layer, stride, dilations, name=...)``.
    """

    num_blocks: int
    channels: int
    layer: Layer
    stride: int
    dilations: tuple[int, int] = (1, 1)
    block: Callable[..., nn.Module] = BasicBlock

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride, (before, dilation) = self.stride, self.dilations
        for i in range(self.num_blocks):
            x = self.block(
                self.channels, self.layer, stride, (before, dilation), name=f"block{i}"
            )(x)
            stride, before = 1, dilation
        return x


def dilate(strides: Sequence[int], output_stride: int) -> list[tuple[int, int, int]]:
    """Replaces strides by dilation from where ``output_stride`` is reached.

    Args:
      strides: of the stem and of each stage after it.
      output_stride: wanted ratio of the picture's size to that of the last map.

    Returns:
      For each stage its stride, the dilation before it, and its own dilation. At every
      position that the strided model computes, the dilated one has the same value.

    Raises:
      ValueError: an output stride that the strides do not pass through.

    >>> dilate([4, 1, 2, 2, 2], 16)
    [(1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)]
    """
    reached = [math.prod(strides[: i + 1]) for i in range(len(strides))]
    if output_stride not in reached:
        expected = sorted(set(reached))
        raise ValueError(
            f"output_stride: found {output_stride}, expected one of {expected}"
        )
    plan, dilation = [], 1
    for stride, size in zip(strides[1:], reached[1:], strict=True):
        before = dilation
        if size > output_stride:
            dilation, stride = dilation * stride, 1
        plan.append((stride, before, dilation))
    return plan
