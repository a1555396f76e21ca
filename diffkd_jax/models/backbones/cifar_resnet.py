"""CIFAR ResNets: three stages at full, half and quarter resolution.

He et al. 2016, section 4.2, in the variants of the CIFAR-100 distillation literature
(paper table 9): depths 8 to 110, and the wide 8x4 and 32x4.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...bounds import Channels
from .layers import pool_and_classify, shared_layer
from .residual import Stage

NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


class CifarResNet(nn.Module):
    """A CIFAR ResNet for images of about 32x32 with any number of channels.

    The outputs are ``stem`` ``[b, h, w, c0]``; ``stage1`` ``[b, h, w, c1]``; ``stage2``
    ``[b, h/2, w/2, c2]``; ``stage3`` and ``features`` (the same map, after ReLU) ``[b,
    h/4, w/4, c3]``; ``pooled`` ``[b, c3]``; and ``logits`` ``[b, num_classes]``.

    Attributes:
      depth: number of layers, 6 n + 2.
      num_classes: number of logits, 0 for no head.
      channels: numbers of channels of the stem and the three stages.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
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
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b *dims"]]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.

        Raises:
          ValueError: the depth is not 6 n + 2, or below 8.
        """
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth: found {self.depth}, expected 8, 14, 20, ... 6n+2")
        layer = shared_layer(self, train)
        outputs = {"stem": layer(self.channels[0], 3, name="stem")(x)}
        x = outputs["stem"]
        count = (self.depth - 2) // 6
        for i, channels in enumerate(self.channels[1:], 1):
            stage = Stage(count, channels, layer, 1 if i == 1 else 2, name=f"stage{i}")
            outputs[f"stage{i}"] = x = stage(x)
        return outputs | pool_and_classify(x, self.num_classes)
