"""EfficientNet-B0 (Tan and Le 2019) and EfficientNet-Lite0, 1, 2."""

import math
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...bounds import Factor, Part
from ...core.norm import BatchNorm
from .inverted_residual import InvertedResidual, round_channels
from .layers import make_conv, pool_and_classify, shared_layer

# Expansion, channels, kernel size, stride and number of blocks of each stage.
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)


class EfficientNet(nn.Module):
    """An EfficientNet for images of about 224x224 with any number of channels.

    The outputs are ``stem`` ``[b, h/2, w/2, 32]``; ``stage1`` to ``stage7``, for B0
    linear bottlenecks of 16, 24, 40, 80, 112, 192 and 320 channels at 1/2, 1/4, 1/8,
    1/16, 1/16, 1/32 and 1/32 of the size; ``last_conv``, 1280 channels before norm and
    activation, the tap of the official DiffKD; ``features``, after both; ``pooled``;
    and ``logits``. Without a head the network ends at ``stage7``.

    Attributes:
      num_classes: number of logits, 0 for no head.
      width: factor of the channels of the stages.
      depth: factor of the numbers of blocks.
      lite: whether it is a Lite variant. It has no gates and takes ReLU6. ``width``
        does not apply to the stem and the last convolution, ``depth`` not to the first
        and last stage.
      tensorflow: whether the padding of convolutions and the epsilon and momentum of
        norms are those of the TensorFlow original.
      dropout: dropout rate before the head.
      drop_path: rate of stochastic depth. In training, block i of N, counted from 0,
        is dropped with probability ``drop_path * i / N``, as in timm.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> out, _ = jax.eval_shape(EfficientNet(10).init_with_output,
    ...     jax.random.key(0), jax.numpy.ones((1, 64, 64, 3)))
    >>> out["stage7"].shape, out["features"].shape
    ((1, 2, 2, 320), (1, 2, 2, 1280))
    """

    num_classes: int
    width: Factor = 1.0
    depth: Factor = 1.0
    lite: bool = False
    tensorflow: bool = False
    dropout: Part = 0.0
    drop_path: Part = 0.0
    norm_group_size: int | None = None
    dtype: Any = None

    def counts(self) -> tuple[int, ...]:
        """Returns the number of blocks in each stage.

        >>> EfficientNet(10, depth=1.1, lite=True).counts()
        (1, 3, 3, 4, 4, 5, 1)
        """
        outer = (0, len(STAGES) - 1) if self.lite else ()
        return tuple(
            row[4] if i in outer else math.ceil(row[4] * self.depth)
            for i, row in enumerate(STAGES)
        )

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b *dims"]]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.
        """
        activation = nn.relu6 if self.lite else nn.silu
        padding = "same" if self.tensorflow else "symmetric"
        norm: dict[str, Any] = {
            "epsilon": 1e-3 if self.tensorflow else 1e-5,
            "momentum": 0.99 if self.tensorflow else 0.9,
        }
        layer = shared_layer(
            self, train, activation=activation, padding=padding, **norm
        )
        counts = self.counts()
        stem = 32 if self.lite else round_channels(32 * self.width)
        outputs = {"stem": layer(stem, 3, 2, name="stem")(x)}
        x, blocks_before = outputs["stem"], 0
        for i, (row, count) in enumerate(zip(STAGES, counts, strict=True), 1):
            expansion, channels, kernel_size, stride, _ = row
            for j in range(count):
                c = x.shape[-1]
                x = InvertedResidual(
                    round_channels(channels * self.width),
                    layer,
                    c * expansion if expansion > 1 else None,
                    kernel_size,
                    stride if j == 0 else 1,
                    squeezed=0 if self.lite else max(1, c // 4),
                    drop_path=self.drop_path * blocks_before / sum(counts),
                    train=train,
                    name=f"stage{i}_block{j}",
                )(x)
                blocks_before += 1
            outputs[f"stage{i}"] = x
        if self.num_classes:
            last = 1280 if self.lite else round_channels(1280 * self.width)
            # Not a ConvNorm: the value between convolution and norm is an output.
            x = make_conv(last, 1, dtype=self.dtype, name="last_conv")(x)
            outputs["last_conv"] = x
            norm |= {"group_size": self.norm_group_size, "dtype": self.dtype}
            x = activation(BatchNorm(not train, **norm, name="last_norm")(x))
        return outputs | pool_and_classify(
            x, self.num_classes, dropout=self.dropout, train=train
        )
