"""RetinaNet (Lin et al. 2017, "Focal loss for dense object detection")."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, PyTree

from ...bounds import Channels, Positive
from .fpn import Extra, Level, apply_pyramid
from .heads import Tower, predict_levels, rare
from .pyramid_anchors import place_anchors


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

    >>> import jax
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
        sides = [[side * scale for scale in self.scales] for side in self.anchor_sizes]
        if self.rounded_anchors:
            sides = [[int(side) for side in level_sides] for level_sides in sides]
        return outputs | {
            "class_logits": logits,
            "box_codes": predict_levels(boxes, 4, count, name="box_head"),
            "anchors": place_anchors(self, maps, x.shape[1:3], sides),
        }
