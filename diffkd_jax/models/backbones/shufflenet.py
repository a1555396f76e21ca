"""ShuffleNets for CIFAR (Zhang et al. 2018, Ma et al. 2018).

These are the variants of the CIFAR-100 distillation literature: the stem is a 1x1
convolution of stride 1 without pooling; V1 has 3 groups, V2 has width 1.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from .layers import Layer, pool_and_classify, shared_layer


def shuffle(x: Num[Array, "*dims c"], groups: int) -> Num[Array, "*dims c"]:
    """Interleaves the channels of ``groups`` equal parts, as ShuffleNets do.

    Args:
      x: ``[..., c]``.
      groups: number of parts, a divisor of c.

    >>> shuffle(jnp.arange(6)[None], 3)
    Array([[0, 2, 4, 1, 3, 5]], dtype=int32)
    """
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return jnp.swapaxes(parts, -1, -2).reshape(x.shape)


class GroupedBlock(nn.Module):
    """A block of V1: grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, shortcut, ReLU.

    Attributes:
      channels: number of output channels of the convolutions. With stride 2 the pooled
        input is appended to them.
      layer: :class:`ConvNorm` with the options of the model.
      stride: 1 or 2.
      groups: number of groups of the 1x1 convolutions.
      first_groups: number of groups of the first 1x1 convolution.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> y, _ = jax.eval_shape(GroupedBlock(24, ConvNorm, 2, 3, 3).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 6, 6, 24)))
    >>> y.shape
    (1, 3, 3, 48)
    """

    channels: int
    layer: Layer
    stride: int
    groups: int
    first_groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        inner, linear = self.channels // 4, {"activation": None}
        y = self.layer(inner, 1, groups=self.first_groups, name="conv0")(x)
        y = shuffle(y, self.first_groups)
        y = self.layer(inner, 3, stride=self.stride, groups=inner, name="conv1")(y)
        y = self.layer(self.channels, 1, groups=self.groups, **linear, name="conv2")(y)
        if self.stride == 1:
            return nn.relu(y + x)
        pooled = nn.avg_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        return nn.relu(jnp.concatenate([y, pooled], -1))


class ShuffleNetV1(nn.Module):
    """A ShuffleNetV1 for images of about 32x32 with any number of channels.

    The outputs are ``stem`` ``[b, h, w, 24]``; ``stage1`` to ``stage3`` with 240, 480
    and 960 channels at 1/2, 1/4 and 1/8 of the size; ``features`` (``stage3``);
    ``pooled``; and ``logits``.

    Attributes:
      num_classes: number of logits, 0 for no head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(ShuffleNetV1(10).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> out["features"].shape
    (1, 4, 4, 960)
    """

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
        layer = shared_layer(self, train)
        outputs = {"stem": layer(24, name="stem")(x)}
        x = outputs["stem"]
        for i, (channels, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
            for j in range(count):
                # The first block appends its input and computes the other channels.
                computed = channels - x.shape[-1] if j == 0 else channels
                first_groups = 1 if x.shape[-1] == 24 else 3
                x = GroupedBlock(
                    computed, layer, 2 if j == 0 else 1, 3, first_groups,
                    name=f"stage{i}_block{j}",
                )(x)  # fmt: skip
            outputs[f"stage{i}"] = x
        return outputs | pool_and_classify(x, self.num_classes)


class SplitBlock(nn.Module):
    """A block of V2 with stride 1: half of the channels are convolved, all shuffled.

    Attributes:
      layer: :class:`ConvNorm` with the options of the model.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> y, _ = jax.eval_shape(SplitBlock(ConvNorm).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 6, 6, 24)))
    >>> y.shape
    (1, 6, 6, 24)
    """

    layer: Layer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        c = x.shape[-1] // 2
        unchanged, y = x[..., :c], x[..., c:]
        y = self.layer(c, 1, name="conv0")(y)
        y = self.layer(c, 3, groups=c, activation=None, name="conv1")(y)
        y = self.layer(c, 1, name="conv2")(y)
        return shuffle(jnp.concatenate([unchanged, y], -1), 2)


class DownBlock(nn.Module):
    """A block of V2 with stride 2: both branches are convolved, joined and shuffled.

    Attributes:
      channels: number of output channels.
      layer: :class:`ConvNorm` with the options of the model.

    >>> import jax
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> y, _ = jax.eval_shape(DownBlock(48, ConvNorm).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 6, 6, 24)))
    >>> y.shape
    (1, 3, 3, 48)
    """

    channels: int
    layer: Layer

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the block to a map.

        Args:
          x: ``[b, h, w, c]``.
        """
        c, half = x.shape[-1], self.channels // 2
        strided = {"stride": 2, "activation": None}
        left = self.layer(c, 3, groups=c, **strided, name="conv0")(x)
        left = self.layer(half, 1, name="conv1")(left)
        right = self.layer(half, 1, name="conv2")(x)
        right = self.layer(half, 3, groups=half, **strided, name="conv3")(right)
        right = self.layer(half, 1, name="conv4")(right)
        return shuffle(jnp.concatenate([left, right], -1), 2)


class ShuffleNetV2(nn.Module):
    """A ShuffleNetV2 for images of about 32x32 with any number of channels.

    The outputs are ``stem`` ``[b, h, w, 24]``; ``stage1`` to ``stage3`` with 116, 232
    and 464 channels at 1/2, 1/4 and 1/8 of the size; ``features`` ``[b, h/8, w/8,
    1024]``, after the last 1x1 convolution; ``pooled``; and ``logits``. Without a head
    the network ends at ``stage3``.

    Attributes:
      num_classes: number of logits, 0 for no head.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(ShuffleNetV2(10).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> out["features"].shape
    (1, 4, 4, 1024)
    """

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
        layer = shared_layer(self, train)
        outputs = {"stem": layer(24, name="stem")(x)}
        x = outputs["stem"]
        for i, (channels, count) in enumerate(((116, 3), (232, 7), (464, 3)), 1):
            x = DownBlock(channels, layer, name=f"stage{i}_block0")(x)
            for j in range(1, count + 1):
                x = SplitBlock(layer, name=f"stage{i}_block{j}")(x)
            outputs[f"stage{i}"] = x
        if self.num_classes:
            x = layer(1024, name="last_conv")(x)
        return outputs | pool_and_classify(x, self.num_classes)
