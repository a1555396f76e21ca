"""Wide ResNets for CIFAR, pre-activation (Zagoruyko and Komodakis 2016)."""

from typing import Any

import flax.linen as nn
import jax

from .layers import BatchNorm, Stage, conv, pool_and_classify


class PreActivationBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice; a shortcut convolution where widths differ.

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
        kwargs = {"stride": self.stride, "dtype": self.dtype}
        active = nn.relu(norm("norm0")(x))
        y = conv(active, self.channels, 3, **kwargs, name="conv0")
        y = nn.relu(norm("norm1")(y))
        y = conv(y, self.channels, 3, dtype=self.dtype, name="conv1")
        if x.shape[-1] != self.channels:
            # As in the reference: the shortcut starts from the activated input.
            x = conv(active, self.channels, 1, **kwargs, name="shortcut_conv")
        return x + y


class PlainStem(nn.Module):
    """3x3 convolution alone."""

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return conv(x, self.channels, 3, dtype=self.dtype, name="conv")


class WideResNet(nn.Module):
    """WRN-depth-width for images of about 32x32 and any number of channels.

    Outputs: ``stem`` ``[b, h, w, 16]``, ``stage1`` ``[b, h, w, 16 k]``, ``stage2``
    ``[b, h/2, w/2, 32 k]``, ``stage3`` ``[b, h/4, w/4, 64 k]`` (before the last norm),
    ``features`` (after norm and ReLU), ``pooled`` ``[b, 64 k]``, ``logits``.

    Attributes:
      depth: 6 n + 4 layers.
      width: factor k of the channels.
      num_classes: number of logits.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: a depth that is not 6 n + 4.

    >>> model = WideResNet(16, 1, 10)
    >>> image = jax.numpy.ones((1, 32, 32, 3))
    >>> out, _ = model.init_with_output(jax.random.key(0), image)
    >>> out["features"].shape
    (1, 8, 8, 64)
    """

    depth: int
    width: int
    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"depth: found {self.depth}, expected 10, 16, 22, ... 6n+4"
            )
        outputs = {"stem": PlainStem(16, self.dtype, name="stem")(x)}
        x = outputs["stem"]
        for i, channels in enumerate((16, 32, 64), 1):
            stage = Stage(
                (self.depth - 4) // 6,
                channels * self.width,
                1 if i == 1 else 2,
                self.dtype,
                PreActivationBlock,
                name=f"stage{i}",
            )
            outputs[f"stage{i}"] = x = stage(x, train=train)
        x = nn.relu(BatchNorm(not train, dtype=self.dtype, name="final_norm")(x))
        pooled, logits = pool_and_classify(x, self.num_classes)
        return outputs | {"features": x, "pooled": pooled, "logits": logits}
