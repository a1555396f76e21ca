"""VGGs for CIFAR with batch norm (Simonyan and Zisserman 2015).

The variants of the CIFAR-100 distillation literature: one linear layer as head, global
pooling in front of it.
"""

from typing import Any

import flax.linen as nn
import jax

from .layers import layer_of, pool_and_classify

CHANNELS = (64, 128, 256, 512, 512)


class Vgg(nn.Module):
    """VGG-8 or VGG-13 for images of about 32x32 and any number of channels.

    Outputs: ``stage1`` ``[b, h, w, 64]``, ``stage2`` ``[b, h/2, w/2, 128]``,
    ``stage3`` ``[b, h/4, w/4, 256]``, ``stage4`` and ``stage5`` ``[b, h/8, w/8, 512]``,
    all after ReLU, ``features`` (``stage5``), ``pooled``, ``logits``.

    Attributes:
      convolutions: in each of the five stages.
      num_classes: number of logits.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

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
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        layer = layer_of(self, train, use_bias=True)
        outputs = {}
        for i, channels in enumerate(CHANNELS, 1):
            # As in the reference, for 32x32 there is no pooling before the last stage.
            if 1 < i < len(CHANNELS):
                x = nn.max_pool(x, (2, 2), (2, 2))
            for j in range(self.convolutions):
                x = layer(channels, 3, name=f"stage{i}_conv{j}")(x)
            outputs[f"stage{i}"] = x
        return outputs | {"features": x} | pool_and_classify(x, self.num_classes)
