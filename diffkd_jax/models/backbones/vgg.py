"""VGGs for CIFAR with batch norm (Simonyan and Zisserman 2015).

These are the variants of the CIFAR-100 distillation literature: after the
last stage follow global pooling and one linear layer.
"""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...backend.max_pool import max_pool
from .layers import pool_and_classify, shared_layer

CHANNELS = (64, 128, 256, 512, 512)


class Vgg(nn.Module):
    """A VGG-8 or VGG-13 for images of about 32x32 with any number of channels.

    The outputs are ``stage1`` ``[b, h, w, 64]``; ``stage2`` ``[b, h/2, w/2, 128]``;
    ``stage3`` ``[b, h/4, w/4, 256]``; ``stage4`` and ``stage5`` ``[b, h/8, w/8, 512]``,
    all after ReLU; ``features`` (``stage5``); ``pooled``; and ``logits``.

    Attributes:
      convolutions: number of convolutions in each of the five stages.
      num_classes: number of logits, 0 for no head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(Vgg(1, 10).init_with_output,
    ...     jax.random.key(0), jax.numpy.ones((1, 32, 32, 3)))
    >>> out["features"].shape
    (1, 4, 4, 512)
    """

    convolutions: int
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
        """
        layer = shared_layer(self, train, use_bias=True)
        outputs = {}
        for i, channels in enumerate(CHANNELS, 1):
            # The reference for 32x32 does not pool before the last stage.
            if 1 < i < len(CHANNELS):
                x = max_pool(x, (2, 2), (2, 2))
            for j in range(self.convolutions):
                x = layer(channels, 3, name=f"stage{i}_conv{j}")(x)
            outputs[f"stage{i}"] = x
        return outputs | pool_and_classify(x, self.num_classes)
