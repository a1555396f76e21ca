"""Residual blocks and stages, and dilation in place of strides."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from .layers import Layer


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions, with a ReLU at the end.

    Attributes:
      channels: number of output channels.
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the options of
        the model.
      stride: stride of the first convolution and of the shortcut.
      dilations: dilations of the two convolutions.
      zero_scale: whether the block starts as the identity.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> block = BasicBlock(8, ConvNorm, stride=2)
    >>> y, _ = jax.eval_shape(
    ...     block.init_with_output, jax.random.key(0), jax.numpy.ones((1, 6, 6, 3)))
    >>> y.shape
    (1, 3, 3, 8)
    """

    channels: int
    layer: Layer
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    zero_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        c, linear = self.channels, {"activation": None}
        first = {"stride": self.stride, "dilation": self.dilations[0]}
        second = linear | {"dilation": self.dilations[1], "zero_scale": self.zero_scale}
        y = self.layer(c, 3, **first, name="conv0")(x)
        y = self.layer(c, 3, **second, name="conv1")(y)
        if x.shape[-1] != c or self.stride != 1:
            x = self.layer(c, 1, stride=self.stride, **linear, name="shortcut")(x)
        return nn.relu(x + y)


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions, with a ReLU at the end.

    Attributes:
      channels: number of output channels, four times the nominal width.
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the options of
        the model.
      stride: stride of the 3x3 convolution and of the shortcut.
      dilations: two dilations, of which the 3x3 convolution takes the first.
      zero_scale: whether the block starts as the identity.
      groups: number of groups of the 3x3 convolution.
      group_width: number of channels of each group, for a nominal width of 64.
      stride_in_first: whether the first convolution strides and not the 3x3 one, as in
        the ResNets of Caffe.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> block = Bottleneck(64, ConvNorm, stride=2)
    >>> y, _ = jax.eval_shape(
    ...     block.init_with_output, jax.random.key(0), jax.numpy.ones((1, 6, 6, 3)))
    >>> y.shape
    (1, 3, 3, 64)
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
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
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
    """A run of residual blocks, of which the first may stride.

    Attributes:
      num_blocks: number of blocks.
      channels: number of output channels of each block.
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the options of
        the model.
      stride: stride of the first block.
      dilations: dilations of the stage before and of this one. They differ if a
        dilation replaces a stride.
      block: function ``(channels, layer, stride, dilations, name=...)`` that makes a
        block.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> stage = Stage(2, 8, ConvNorm, stride=2)
    >>> y, variables = jax.eval_shape(
    ...     stage.init_with_output, jax.random.key(0), jax.numpy.ones((1, 6, 6, 3)))
    >>> y.shape, sorted(variables["params"])
    ((1, 3, 3, 8), ['block0', 'block1'])
    """

    num_blocks: int
    channels: int
    layer: Layer
    stride: int
    dilations: tuple[int, int] = (1, 1)
    block: Callable[..., nn.Module] = BasicBlock

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the blocks to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        stride, (before, dilation) = self.stride, self.dilations
        for i in range(self.num_blocks):
            x = self.block(
                self.channels, self.layer, stride, (before, dilation), name=f"block{i}"
            )(x)
            stride, before = 1, dilation
        return x


def dilate(strides: Sequence[int], output_stride: int) -> list[tuple[int, int, int]]:
    """Replaces strides by dilations once ``output_stride`` is reached.

    Args:
      strides: strides of the stem and of each stage.
      output_stride: ratio of the size of the image to that of the last map.

    Returns:
      For each stage its stride, the dilation of the stage before, and its own dilation.
      The maps of the dilated network are larger. At the positions that the network with
      strides also computes, their values are the same.

    Raises:
      ValueError: the strides do not reach ``output_stride``.

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
