"""Wide ResNets for CIFAR, with pre-activation (Zagoruyko and Komodakis 2016)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...core.norm import BatchNorm
from .layers import ConvNorm, make_conv, pool_and_classify


class PreActivationBlock(nn.Module):
    """A residual block with pre-activation: norm, ReLU and 3x3 convolution, twice.

    The shortcut is a convolution if the number of channels changes.

    Attributes:
      channels: number of output channels.
      stride: stride of the first convolution and of the shortcut.
      train: see :class:`diffkd_jax.models.backbones.layers.ConvNorm`.
      group_size: see :class:`diffkd_jax.models.backbones.layers.ConvNorm`.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> block = PreActivationBlock(16, 2, False, None, None)
    >>> y, _ = jax.eval_shape(
    ...     block.init_with_output, jax.random.key(0), jax.numpy.ones((1, 6, 6, 8)))
    >>> y.shape
    (1, 3, 3, 16)
    """

    channels: int
    stride: int
    train: bool
    group_size: int | None
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        shared = {"group_size": self.group_size, "dtype": self.dtype}
        c, stride, dtype = self.channels, self.stride, self.dtype
        active = nn.relu(BatchNorm(not self.train, **shared, name="norm")(x))
        y = ConvNorm(c, 3, stride, self.train, **shared, name="conv0")(active)
        y = make_conv(c, 3, dtype=dtype, name="conv1")(y)
        if x.shape[-1] != c:
            # The shortcut of the reference starts from the activated input too.
            x = make_conv(c, 1, stride=stride, dtype=dtype, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """A wide ResNet, "WRN-depth-width", for images of about 32x32 with any channels.

    With k the width, the outputs are ``stem`` ``[b, h, w, 16]``; ``stage1`` ``[b, h, w,
    16 k]``; ``stage2`` ``[b, h/2, w/2, 32 k]``; ``stage3`` ``[b, h/4, w/4, 64 k]``,
    before the last norm; ``features``, after norm and ReLU; ``pooled`` ``[b, 64 k]``;
    and ``logits``.

    Attributes:
      depth: number of layers, 6 n + 4.
      width: factor k of the channels.
      num_classes: number of logits, 0 for no head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
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
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b *dims"]]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.

        Raises:
          ValueError: the depth is not 6 n + 4, or below 10.
        """
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
        return outputs | pool_and_classify(x, self.num_classes)
