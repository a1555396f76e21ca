"""CIFAR ResNets: three stages at full, half and quarter resolution.

He et al. 2016, section 4.2, in the variants of the CIFAR-100 distillation
literature (paper table 9): depths 8 to 110, and the wide 8x4 and 32x4.
"""

from typing import Any

import flax.linen as nn
import jax

from ...bounds import Channels
from .layers import Stage, layer_of, pool_and_classify

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


class CifarResNet(nn.Module):
    """CIFAR ResNet for images of about 32x32 and any number of channels.

    Outputs: ``stem`` ``[b, h, w, c0]``, ``stage1`` ``[b, h, w, c1]``, ``stage2``
    ``[b, h/2, w/2, c2]``, ``stage3`` and ``features`` (the same map, after ReLU)
    ``[b, h/4, w/4, c3]``, ``pooled`` ``[b, c3]``, ``logits`` ``[b, num_classes]``.

    Attributes:
      depth: 6 n + 2 layers.
      num_classes: number of logits.
      channels: of the stem and the three stages.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: a depth that is not 6 n + 2.

    >>> model = CifarResNet(8, 10)
    >>> image = jax.numpy.ones((1, 28, 28, 1))
    >>> out, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    >>> out["features"].shape, out["logits"].shape
    ((1, 7, 7, 64), (1, 10))
    """

    depth: int
    num_classes: int
    channels: tuple[Channels, Channels, Channels, Channels] = NARROW
    norm_group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: found {self.depth}, expected 8, 14, 20, ... 6n+2")
        layer = layer_of(self, train)
        outputs = {"stem": layer(self.channels[0], 3, name="stem")(x)}
        x = outputs["stem"]
        count = (self.depth - 2) // 6
        for i, channels in enumerate(self.channels[1:], 1):
            stage = Stage(count, channels, layer, 1 if i == 1 else 2, name=f"stage{i}")
            outputs[f"stage{i}"] = x = stage(x)
        return outputs | {"features": x} | pool_and_classify(x, self.num_classes)
