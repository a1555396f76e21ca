"""Wide ResNets for CIFAR, pre-activation (Zagoruyko and Komodakis 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax

from ...core.norm import BatchNorm
from .layers import ConvNorm, make_conv, pool_and_classify


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; a shortcut convolution where widths differ.

    Attributes:
      channels: output channels.
      stride: of the first convolution and the shortcut.
      train: as in :class:`diffkd_jax.models.backbones.layers.ConvNorm`.
      group_size: likewise.
      dtype: likewise.
    """

    channels: int
    stride: int
    train: bool
    group_size: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shared = {"group_size": self.group_size, "dtype": self.dtype}
        c, stride, dtype = self.channels, self.stride, self.dtype
        active = nn.relu(BatchNorm(not self.train, **shared, name="norm")(x))
        y = ConvNorm(c, 3, stride, self.train, **shared, name="conv0")(active)
        y = make_conv(c, 3, dtype=dtype, name="conv1")(y)
        if x.shape[-1] != c:
            # As in the reference: the shortcut starts from the activated input.
            x = make_conv(c, 1, stride=stride, dtype=dtype, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """WRN-depth-width for images of about 32x32 and any number of channels.

    Outputs: ``stem`` ``[b, h, w, 16]``, ``stage1`` ``[b, h, w, 16 k]``, ``stage2``
    ``[b, h/2, w/2, 32 k]``, ``stage3`` ``[b, h/4, w/4, 64 k]`` (before the last norm),
    ``features`` (after norm and ReLU), ``pooled`` ``[b, 64 k]``, ``logits``.

    Attributes:
      depth: 6 n + 4 layers.
      width: factor k of the channels.
      num_classes: number of logits.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: a depth that is not 6 n + 4.

    >>> model = WideResNet(16, 1, 10)
    >>> image = jax.numpy.ones((1, 32, 32, 3))
    >>> out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    >>> out["features"].shape
    (1, 8, 8, 64)
    """

    depth: int
    width: int
    num_classes: int
    norm_group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"depth: found {self.depth}, expected 10, 16, 22, ... 6n+4"
            )
        shared = {"group_size": self.norm_group_size, "dtype": self.dtype}
        block: Callable[..., Any] = partial(PreActivationBlock, train=train, **shared)
        outputs = {"stem": make_conv(16, 3, dtype=self.dtype, name="stem")(x)}
        x = outputs["stem"]
        for i, channels in enumerate((16, 32, 64), 1):
            for j in range((self.depth - 4) // 6):
                stride = 2 if i > 1 and j == 0 else 1
                name = f"stage{i}_block{j}"
                x = block(channels * self.width, stride, name=name)(x)
            outputs[f"stage{i}"] = x
        x = nn.relu(BatchNorm(not train, **shared, name="last_norm")(x))
        return outputs | {"features": x} | pool_and_classify(x, self.num_classes)
