"""Layers that the backbones share."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..core.norm import BatchNorm

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    x: jax.Array,
    channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dtype: Any = None,
    name: str,
) -> jax.Array:
    """Convolution without bias, symmetric padding, He initialisation by fan-out.

    To be called inside a compact Flax module. Symmetric padding is PyTorch's; "SAME"
    would shift strided convolutions by one pixel.
    """
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        (stride, stride),
        padding=kernel_size // 2,
        use_bias=False,
        kernel_init=fan_out_normal,
        dtype=dtype,
        name=name,
    )(x)


def pool_and_classify(
    features: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Global average ``[b, c]`` and logits ``[b, num_classes]``, both float32.

    To be called inside a compact Flax module, which then owns the layer ``head``.
    """
    pooled = jnp.mean(features.astype(jnp.float32), (1, 2))
    logits = nn.Dense(
        num_classes,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        bias_init=_uniform(1 / math.sqrt(pooled.shape[-1])),
        name="head",
    )(pooled)
    return pooled, logits


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU at the end.

    Attributes:
      channels: output channels.
      stride: of the first convolution and the shortcut.
      dtype: compute dtype, or None for float32.
    """

    channels: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = lambda name: BatchNorm(not train, dtype=self.dtype, name=name)
        y = conv(
            x, self.channels, 3, stride=self.stride, dtype=self.dtype, name="conv0"
        )
        y = nn.relu(norm("norm0")(y))
        y = norm("norm1")(conv(y, self.channels, 3, dtype=self.dtype, name="conv1"))
        if x.shape[-1] != self.channels or self.stride != 1:
            x = conv(
                x,
                self.channels,
                1,
                stride=self.stride,
                dtype=self.dtype,
                name="shortcut_conv",
            )
            x = norm("shortcut_norm")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """A run of blocks, the first of which may stride.

    Attributes:
      num_blocks: number of blocks.
      channels: output channels of every block.
      stride: of the first block.
      dtype: compute dtype, or None for float32.
      block: module class, called as ``block(channels, stride, dtype, name=...)``.
    """

    num_blocks: int
    channels: int
    stride: int
    dtype: Any = None
    block: Callable[..., nn.Module] = BasicBlock

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.num_blocks):
            stride = self.stride if i == 0 else 1
            x = self.block(self.channels, stride, self.dtype, name=f"block{i}")(
                x, train=train
            )
        return x


def _uniform(bound: float) -> Callable:
    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


__all__ = ["BasicBlock", "BatchNorm", "Stage", "conv", "pool_and_classify"]
