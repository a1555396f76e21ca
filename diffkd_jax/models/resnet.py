"""ImageNet ResNets of basic blocks: ResNet-18 and ResNet-34 (He et al. 2016)."""

from typing import Any

import flax.linen as nn
import jax

from .layers import BatchNorm, Stage, conv, pool_and_classify


class DownsamplingStem(nn.Module):
    """7x7 convolution of stride 2, batch norm, ReLU, 3x3 max pooling of stride 2."""

    channels: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = conv(x, self.channels, 7, stride=2, dtype=self.dtype, name="conv")
        x = nn.relu(BatchNorm(not train, dtype=self.dtype, name="norm")(x))
        return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


class ResNet(nn.Module):
    """ResNet for images of about 224x224 and any number of channels.

    Outputs: ``stem`` ``[b, h/4, w/4, 64]``, ``stage1`` to ``stage4`` with 64, 128,
    256, 512 channels at 1/4, 1/8, 1/16, 1/32 of the size, ``features`` (``stage4``,
    after ReLU), ``pooled`` ``[b, 512]``, ``logits`` ``[b, num_classes]``.

    Attributes:
      blocks: number of basic blocks in each of the four stages.
      num_classes: number of logits.
      dtype: compute dtype, or None for float32.

    >>> image = jax.numpy.ones((1, 64, 64, 3))
    >>> out, _ = jax.eval_shape(
    ...     ResNet((2, 2, 2, 2), 10).init_with_output, jax.random.key(0), image)
    >>> out["features"].shape
    (1, 2, 2, 512)
    """

    blocks: tuple[int, int, int, int]
    num_classes: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        x = DownsamplingStem(64, self.dtype, name="stem")(x, train=train)
        outputs = {"stem": x}
        for i, blocks in enumerate(self.blocks, 1):
            channels, stride = 32 * 2**i, 1 if i == 1 else 2
            stage = Stage(blocks, channels, stride, self.dtype, name=f"stage{i}")
            outputs[f"stage{i}"] = x = stage(x, train=train)
        pooled, logits = pool_and_classify(x, self.num_classes)
        return outputs | {"features": x, "pooled": pooled, "logits": logits}
