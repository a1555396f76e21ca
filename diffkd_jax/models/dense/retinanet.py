"""RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...bounds import Channels, Positive
from ...ops.anchors import grid_anchors
from ..backbones.layers import make_conv
from .fpn import Extra, Level, apply_pyramid

normal = nn.initializers.normal(0.01)
# At first, each cell predicts "no object" with probability 0.99.
rare = nn.initializers.constant(-math.log(99))


class Tower(nn.Module):
    """A run of 3x3 convolutions with ReLU, shared by all levels.

    Attributes:
      depth: number of convolutions.
      channels: number of channels of each.
      groups: number of groups of the norm after each convolution, 0 for no norm.
      dtype: compute dtype, or None for float32.

    >>> maps = {"p3": jax.numpy.ones((1, 4, 4, 8)), "p4": jax.numpy.ones((1, 2, 2, 8))}
    >>> out, variables = jax.eval_shape(
    ...     Tower(2, 16).init_with_output, jax.random.key(0), maps)
    >>> out["p4"].shape, sorted(variables["params"])
    ((1, 2, 2, 16), ['conv0', 'conv1'])
    """

    depth: int
    channels: int
    groups: int = 0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, maps: Mapping[str, Float[Array, "b _ _ _"]]
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Applies the convolutions to the map of each level.

        Args:
          maps: ``[b, h, w, c]`` by level.

        Returns:
          ``[b, h, w, channels]`` by level.
        """
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
    maps: Mapping[str, Float[Array, "b _ _ _"]],
    values: int,
    anchors: int = 1,
    *,
    kernel_size: int = 3,
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros,
    name: str,
) -> dict[str, Float[Array, "b _ _"]]:
    """Applies the last convolution of a head, shared by all levels, in float32.

    Call it in the compact method of a module, which then owns the convolution.

    Args:
      maps: ``[b, h, w, c]`` by level.
      values: number of values of each anchor.
      anchors: number of anchors of each cell.
      kernel_size: side of the kernel.
      bias_init: initialiser of the bias.
      name: name of the convolution in the module.

    Returns:
      ``[b, h * w * anchors, values]`` by level, in order of row, column and anchor.

    >>> class Head(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, maps):
    ...         return predict_levels(maps, 4, 2, name="head")
    >>> maps = {"p3": jax.numpy.ones((1, 4, 4, 8))}
    >>> out, _ = jax.eval_shape(Head().init_with_output, jax.random.key(0), maps)
    >>> out["p3"].shape
    (1, 32, 4)
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
    """A one-stage detector, which predicts class and box of each anchor of each cell.

    The outputs are ``stem`` and the stages of the backbone; ``fpn``, maps ``[b, h, w,
    fpn_channels]`` by level; and three dicts by level. With A = ratios x scales,
    anchors are in the order of row, column, ratio and scale:

    * ``class_logits`` float32 ``[b, h w A, num_classes]``,
    * ``box_codes`` float32 ``[b, h w A, 4]``, ``dx dy dw dh`` with weights 1,
    * ``anchors`` ``[h w A, 4]``, ``x1 y1 x2 y2`` in pixels of the input, the same for
      all images.

    Without classes, the outputs end with the pyramid. The network is that of
    torchvision's first version. That of mmdetection has ``extra="c5",
    relu_before_extra=False, rounded_anchors=False, nominal_strides=True``.

    Attributes:
      make_backbone: a ResNet, called with ``num_classes`` and its options.
      num_classes: number of logits of each anchor, 0 to end with the pyramid.
      width: width of the backbone, see
        :class:`diffkd_jax.models.backbones.resnet.ResNet`.
      norm_train: whether the norms of the backbone take statistics of the batch in
        training.
      stride_in_first: whether bottlenecks of the backbone stride in their first
        convolution.
      fpn_channels: number of channels of the pyramid and the towers.
      levels: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      tower_depth: number of convolutions before the last one of each head.
      anchor_sizes: side of a square anchor for each level, in pixels.
      scales: factors of the anchor sizes.
      ratios: ratios of height to width of the anchors.
      rounded_anchors: whether sides and corners of anchors are whole pixels.
      nominal_strides: if true, the cells of a map are 2^level pixels apart, as in
        mmdetection. If false, their distance follows from the sizes of image and map,
        as in torchvision; on p6 and p7 it is smaller for images that these strides do
        not divide.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

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
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, PyTree]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the backbone is trained.

        Raises:
          ValueError: the number of sizes is not that of levels, or levels cannot be
            made.
        """
        outputs = apply_pyramid(self, self.levels, x, train=train)
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

    def _anchors(
        self, sizes: Mapping[str, Sequence[int]], image_size: Sequence[int]
    ) -> dict[str, Float[np.ndarray, "_ 4"]]:
        """Returns the anchors of each level."""
        check_anchor_sizes(self.anchor_sizes, self.levels)
        anchors = {}
        for (level, size), side in zip(sizes.items(), self.anchor_sizes, strict=True):
            sides = [side * scale for scale in self.scales]
            sides = [int(s) for s in sides] if self.rounded_anchors else sides
            covered = covered_size(self, level, size, image_size)
            anchors[level] = grid_anchors(
                size, covered, sides, self.ratios, self.rounded_anchors
            )
        return anchors


def covered_size(
    module: Any, level: str, size: Sequence[int], image_size: Sequence[int]
) -> Sequence[int]:
    """Returns height and width of the area that the cells of a map cover, in pixels.

    This is the size of the image. With ``module.nominal_strides`` it is what the map
    covers at the stride of its level.

    Args:
      module: a detector with the field ``nominal_strides``.
      level: level of the map, such as "p3".
      size: height and width of the map, in cells.
      image_size: height and width of the image, in pixels.

    >>> from diffkd_jax.models import build_network
    >>> net = build_network("fcos_resnet18", num_classes=80, nominal_strides=True)
    >>> covered_size(net, "p3", (5, 7), (33, 50))
    (40, 56)
    """
    if not module.nominal_strides:
        return image_size
    stride = 2 ** int(level[1:])
    return size[0] * stride, size[1] * stride


def check_anchor_sizes(sizes: tuple[float, ...], levels: tuple[str, ...]) -> None:
    """Raises an error unless there is one anchor size for each level.

    Args:
      sizes: sides of anchors, in pixels.
      levels: levels of the pyramid.

    Raises:
      ValueError: their numbers differ.

    >>> check_anchor_sizes((32,), ("p3", "p4"))
    Traceback (most recent call last):
    ...
    ValueError: anchor_sizes: found 1 of them, expected one for each of ('p3', 'p4')
    """
    if len(sizes) != len(levels):
        raise ValueError(
            f"anchor_sizes: found {len(sizes)} of them, expected one for each of "
            f"{tuple(levels)}"
        )
