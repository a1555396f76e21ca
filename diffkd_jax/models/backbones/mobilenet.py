"""MobileNetV1 (Howard et al. 2017) and V2 (Sandler et al. 2018)."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...bounds import Factor, Part
from .inverted_residual import InvertedResidual, round_channels
from .layers import pool_and_classify, shared_layer
from .residual import dilate

# Channels and stride of each block of V1. A stage ends before the next stride.
V1_BLOCKS = (
    ((64, 1),),
    ((128, 2), (128, 1)),
    ((256, 2), (256, 1)),
    ((512, 2), *((512, 1),) * 5),
    ((1024, 2), (1024, 1)),
)


class MobileNetV1(nn.Module):
    """A MobileNetV1 for images of about 224x224 with any number of channels.

    The outputs are ``stem`` ``[b, h/2, w/2, 32]``; ``stage1`` to ``stage5`` with 64,
    128, 256, 512 and 1024 channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the size;
    ``features`` (``stage5``, after ReLU); ``pooled``; and ``logits``.

    Attributes:
      num_classes: number of logits, 0 for no head.
      dropout: dropout rate before the head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(MobileNetV1(10).init_with_output,
    ...     jax.random.key(0), jax.numpy.ones((1, 64, 64, 3)))
    >>> out["features"].shape
    (1, 2, 2, 1024)
    """

    num_classes: int
    dropout: Part = 0.0
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
        layer = shared_layer(self, train)
        outputs = {"stem": layer(32, 3, stride=2, name="stem")(x)}
        x = outputs["stem"]
        for i, blocks in enumerate(V1_BLOCKS, 1):
            for j, (channels, stride) in enumerate(blocks):
                name, c = f"stage{i}_block{j}", x.shape[-1]
                x = layer(c, 3, stride=stride, groups=c, name=f"{name}_depthwise")(x)
                x = layer(channels, name=f"{name}_pointwise")(x)
            outputs[f"stage{i}"] = x
        return outputs | pool_and_classify(
            x, self.num_classes, dropout=self.dropout, train=train
        )


# Channels, number of blocks and stride of each stage of V2. All stages but the first
# expand sixfold.
V2_STAGES = (
    (16, 1, 1),
    (24, 2, 2),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)


class MobileNetV2(nn.Module):
    """A MobileNetV2 for images of about 224x224 or 32x32, with any number of channels.

    The outputs are ``stem`` at half the size; ``stage1`` to ``stage7``, linear
    bottlenecks of 16, 24, 32, 64, 96, 160 and 320 channels times the width, at 1/2,
    1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the size; ``features``, 1280 channels after
    the last 1x1 convolution and ReLU6; ``pooled``; and ``logits``. Without a head the
    network ends at ``stage7``.

    Attributes:
      num_classes: number of logits, 0 for no head.
      width: factor of the channels.
      small_images: whether it is the variant of the CIFAR-100 distillation literature:
        stage 2 does not stride, so the maps from there on are twice as high and wide
        as stated above; the first block has an expansion of factor 1, and ReLU takes
        the place of ReLU6.
      output_stride: ratio of the size of the image to that of the last map: 32, or 16
        or 8 with dilation, for dense tasks. For small images it is at most 16.
      dropout: dropout rate before the head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(MobileNetV2(10).init_with_output,
    ...     jax.random.key(0), jax.numpy.ones((1, 64, 64, 3)))
    >>> out["stage7"].shape, out["features"].shape
    ((1, 2, 2, 320), (1, 2, 2, 1280))
    """

    num_classes: int
    width: Factor = 1.0
    small_images: bool = False
    output_stride: int = 32
    dropout: Part = 0.0
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
          ValueError: an ``output_stride`` that cannot be reached.
        """
        activation = nn.relu if self.small_images else nn.relu6
        layer = shared_layer(self, train, activation=activation)
        strides = [2, *(stride for _, _, stride in V2_STAGES)]
        if self.small_images:
            strides[2] = 1
        output_stride = min(self.output_stride, 16 if self.small_images else 32)
        plan = dilate(strides, output_stride)
        stem = round_channels(32 * self.width, divisor=self._divisor)
        outputs = {"stem": layer(stem, 3, stride=2, name="stem")(x)}
        x = outputs["stem"]
        rows = zip(V2_STAGES, plan, strict=True)
        for i, ((channels, count, _), (stride, before, dilation)) in enumerate(rows, 1):
            channels = round_channels(channels * self.width, divisor=self._divisor)
            for j in range(count):
                expanded = x.shape[-1] * (6 if i > 1 else 1)
                x = InvertedResidual(
                    channels,
                    layer,
                    expanded if i > 1 or self.small_images else None,
                    stride=stride if j == 0 else 1,
                    dilation=before if j == 0 else dilation,
                    name=f"stage{i}_block{j}",
                )(x)
            outputs[f"stage{i}"] = x
        if self.num_classes:
            x = layer(round_channels(1280 * max(1.0, self.width)), name="last_conv")(x)
        return outputs | pool_and_classify(
            x, self.num_classes, dropout=self.dropout, train=train
        )

    @property
    def _divisor(self) -> int:
        """Returns the divisor of all numbers of channels."""
        # The reference of the small variant truncates numbers of channels. Rounding to
        # multiples of 4 gives the same numbers.
        return 4 if self.small_images else 8
