"""RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from ...bounds import Channels, Positive
from ...ops.anchors import grid_anchors
from ..backbones.layers import make_conv
from .fpn import Extra, Level, pyramid_of

normal = nn.initializers.normal(0.01)
# So that at first every position says "no object" with probability 0.99.
rare = nn.initializers.constant(-math.log(99))


class Tower(nn.Module):
    """3x3 convolutions with ReLU, maybe with group norms, the same for all levels.

    Attributes:
      depth: number of convolutions.
      channels: of each.
      groups: of the norm behind each, 0 for none.
      dtype: compute dtype, or None for float32.
    """

    depth: int
    channels: int
    groups: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(self, maps: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        for i in range(self.depth):
            layer = make_conv(
                self.channels,
                3,
                use_bias=True,
                kernel_init=normal,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            maps = {level: layer(x) for level, x in maps.items()}
            if self.groups:
                norm = nn.GroupNorm(
                    self.groups, epsilon=1e-5, dtype=self.dtype, name=f"norm{i}"
                )
                maps = {level: norm(x) for level, x in maps.items()}
            maps = {level: nn.relu(x) for level, x in maps.items()}
        return dict(maps)


def predict_levels(
    maps: Mapping[str, jax.Array],
    values: int,
    anchors: int = 1,
    *,
    kernel_size: int = 3,
    bias_init: Callable = nn.initializers.zeros,
    name: str,
) -> dict[str, jax.Array]:
    """Applies the last convolution of a head, the same for all levels, in float32.

    Args:
      maps: ``[b, h, w, c]`` by level.
      values: of every anchor.
      anchors: of every position.
      kernel_size: of the convolution.
      bias_init: of its bias.
      name: of it in the module, in whose compact method it is called.

    Returns:
      ``[b, h * w * anchors, values]`` by level: by row, column, anchor.
    """
    layer = make_conv(
        anchors * values,
        kernel_size,
        use_bias=True,
        kernel_init=normal,
        bias_init=bias_init,
        name=name,
    )
    return {
        level: layer(x.astype(jax.numpy.float32)).reshape(x.shape[0], -1, values)
        for level, x in maps.items()
    }


class RetinaNet(nn.Module):
    """One-stage detector: classes and box codes of anchors at every position.

    Outputs: the backbone's ``stem`` and stages, ``fpn`` ``[b, h, w, fpn_channels]`` by
    level, and by level with A = ratios x scales, anchors ordered by row, column, ratio,
    scale: ``class_logits`` ``[b, h w A, num_classes]``, ``box_codes`` ``[b, h w A, 4]``
    (dx dy dw dh, weights 1), both float32, and ``anchors`` ``[h w A, 4]``, constants
    without batch, x1 y1 x2 y2 in pixels of the input. Without classes nothing follows
    the pyramid. As torchvision's first version; mmdet's with ``extra="c5",
    relu_before_extra=False, rounded_anchors=False, nominal_strides=True``.

    Attributes:
      make_backbone: a ResNet, to be called with ``num_classes`` and its options.
      num_classes: number of logits of an anchor.
      width: of the backbone.
      norm_train: of the backbone, whether its norms take statistics of the batch while
        training.
      stride_in_first: of the backbone's bottlenecks.
      fpn_channels: of the pyramid and the towers.
      levels, extra, relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      tower_depth: convolutions before the last of each head.
      anchor_sizes: side of a square anchor of each level, pixels.
      scales: factors of these.
      ratios: of height to width.
      rounded_anchors: sides and corners in whole pixels.
      nominal_strides: positions are 2^level pixels apart, as mmdet has it; else what
        the sizes of picture and map give, as torchvision, which is less on p6 and p7 of
        pictures that these do not divide.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: not as many sizes as levels, or levels that cannot be made.

    >>> from diffkd_jax.models import build_network
    >>> out, _ = jax.eval_shape(
    ...     build_network("retinanet_resnet18", num_classes=80).init_with_output,
    ...     jax.random.key(0), jax.numpy.ones((1, 64, 96, 3)))
    >>> out["fpn"]["p3"].shape, out["class_logits"]["p3"].shape
    ((1, 8, 12, 256), (1, 864, 80))
    """

    make_backbone: Callable[..., nn.Module]
    num_classes: int
    width: Channels = 64
    norm_train: bool = False
    stride_in_first: bool = False
    fpn_channels: Channels = 256
    levels: tuple[Level, ...] = ("p3", "p4", "p5", "p6", "p7")
    extra: Extra = "p5"
    relu_before_extra: bool = True
    tower_depth: int = 4
    anchor_sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)
    scales: tuple[Positive, ...] = (1, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: tuple[Positive, ...] = (0.5, 1, 2)
    rounded_anchors: bool = True
    nominal_strides: bool = False
    norm_group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, Any]:
        outputs = pyramid_of(self, self.levels, x, train=train)
        if not self.num_classes:
            return outputs
        maps, count = outputs["fpn"], len(self.scales) * len(self.ratios)
        tower = (self.tower_depth, self.fpn_channels, 0, self.dtype)
        classes, boxes = (
            Tower(*tower, name=f"{name}_tower")(maps) for name in ("class", "box")
        )
        logits = predict_levels(
            classes, self.num_classes, count, bias_init=rare, name="class_head"
        )
        sizes = {level: y.shape[1:3] for level, y in maps.items()}
        return outputs | {
            "class_logits": logits,
            "box_codes": predict_levels(boxes, 4, count, name="box_head"),
            "anchors": self._anchors(sizes, x.shape[1:3]),
        }

    def _anchors(self, sizes: Mapping, image_size: Sequence[int]) -> dict[str, Any]:
        check_sizes(self.anchor_sizes, self.levels)
        found = {}
        for (level, size), side in zip(sizes.items(), self.anchor_sizes, strict=True):
            sides = [side * scale for scale in self.scales]
            sides = [int(s) for s in sides] if self.rounded_anchors else sides
            whole = covered(self, level, size, image_size)
            made = (sides, self.ratios, self.rounded_anchors)
            found[level] = grid_anchors(size, whole, *made)
        return found


def covered(
    module: Any, level: str, size: Sequence[int], image_size: Sequence[int]
) -> Sequence[int]:
    """Height and width of what the positions of a map are spread over, pixels.

    That is the picture, or with ``module.nominal_strides`` what the map covers at the
    stride of its level.
    """
    if not module.nominal_strides:
        return image_size
    stride = 2 ** int(level[1:])
    return size[0] * stride, size[1] * stride


def check_sizes(sizes: tuple[float, ...], levels: tuple[str, ...]) -> None:
    """Refuses sizes of anchors that do not go with the levels.

    >>> check_sizes((32,), ("p3", "p4"))
    Traceback (most recent call last):
    ...
    ValueError: anchor_sizes: found 1 of them, expected one for each of ('p3', 'p4')
    """
    if len(sizes) != len(levels):
        raise ValueError(
            f"anchor_sizes: found {len(sizes)} of them, expected one for each of "
            f"{tuple(levels)}"
        )
