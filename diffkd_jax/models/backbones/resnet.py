"""ImageNet ResNets (He et al. 2016) and ResNeXts (Xie et al. 2017)."""

from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from ...backend.max_pool import max_pool
from ...bounds import Channels, Part
from .layers import pool_and_classify, shared_layer
from .residual import BasicBlock, Bottleneck, Stage, dilate


class ResNet(nn.Module):
    """A ResNet for images of about 224x224 with any number of channels.

    The outputs are ``stem`` ``[b, h/4, w/4, width]`` (twice the width with a deep
    stem); ``stage1`` to ``stage4`` with 1, 2, 4 and 8 times the width (four times as
    many with bottlenecks) at 1/4, 1/8, 1/16 and 1/32 of the size; ``features``
    (``stage4``, after ReLU); ``pooled``; and ``logits``.

    Attributes:
      blocks: numbers of blocks in the four stages.
      num_classes: number of logits, 0 for no head.
      bottleneck: whether blocks have three convolutions (ResNet-50 and deeper) and not
        two.
      groups: number of groups of the 3x3 convolutions in bottlenecks (ResNeXt).
      group_width: number of channels of each group in the first stage.
      width: number of channels of the stem and of the first stage, before bottlenecks
        widen it.
      small_images: whether the stem is a 3x3 convolution of stride 1 without pooling,
        for images of 32x32. The stem and the stages are then four times as high and
        wide as stated above.
      deep_stem: whether the stem has three 3x3 convolutions in place of a 7x7 one, as
        networks for segmentation have. The first strides, the last has twice the width.
      stride_in_first: whether bottlenecks stride in their first convolution, as in the
        ResNets of Caffe.
      output_stride: ratio of the size of the image to that of the last map: 32, or 16
        or 8 with dilation, for dense tasks. For small images it is 8, or less with
        dilation.
      dropout: dropout rate before the head.
      zero_init_last_norm: whether each block starts as the identity.
      norm_train: whether norms take statistics of the batch in training. If false, they
        use the running ones in training too and do not change them, as in detectors.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
    >>> image = jax.numpy.ones((1, 64, 64, 3))
    >>> out, _ = jax.eval_shape(
    ...     ResNet((2, 2, 2, 2), 10).init_with_output, jax.random.key(0), image)
    >>> out["features"].shape
    (1, 2, 2, 512)
    """

    blocks: tuple[int, int, int, int]
    num_classes: int
    bottleneck: bool = False
    groups: Channels = 1
    group_width: Channels = 64
    width: Channels = 64
    small_images: bool = False
    deep_stem: bool = False
    stride_in_first: bool = False
    output_stride: int = 32
    dropout: Part = 0.0
    zero_init_last_norm: bool = False
    norm_train: bool = True
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
          ValueError: an ``output_stride`` that cannot be reached, a deep stem for small
            images, or ``stride_in_first`` without bottlenecks.
        """
        layer, width = shared_layer(self, train and self.norm_train), self.width
        block: Any = BasicBlock
        if self.bottleneck:
            block = partial(
                Bottleneck,
                groups=self.groups,
                group_width=self.group_width,
                stride_in_first=self.stride_in_first,
            )
        elif self.stride_in_first:
            raise ValueError(
                "stride_in_first: found it without bottlenecks, expected False, or a "
                "ResNet of 50 or more layers"
            )
        block = partial(block, zero_scale=self.zero_init_last_norm)
        if self.small_images and self.deep_stem:
            raise ValueError(
                "deep_stem: found it with small_images, expected at most one of the two"
            )
        if self.small_images:
            x = layer(width, 3, name="stem")(x)
            plan = dilate([1, 1, 2, 2, 2], min(self.output_stride, 8))
        else:
            if self.deep_stem:
                for i, channels in enumerate((width, width, 2 * width)):
                    stride = 2 if i == 0 else 1
                    x = layer(channels, 3, stride=stride, name=f"stem_conv{i}")(x)
            else:
                x = layer(width, 7, stride=2, name="stem")(x)
            x = max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
            plan = dilate([4, 1, 2, 2, 2], self.output_stride)
        outputs = {"stem": x}
        rows = zip(self.blocks, plan, strict=True)
        for i, (count, (stride, before, dilation)) in enumerate(rows, 1):
            channels = width * 2 ** (i - 1) * (4 if self.bottleneck else 1)
            outputs[f"stage{i}"] = x = Stage(
                count, channels, layer, stride, (before, dilation), block,
                name=f"stage{i}",
            )(x)  # fmt: skip
        return outputs | pool_and_classify(
            x, self.num_classes, dropout=self.dropout, train=train
        )
