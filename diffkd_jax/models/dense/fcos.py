"""FCOS (Tian et al. 2019), a one-stage detector without anchors."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, PyTree

from ...bounds import Channels, Share
from ...ops.anchors import points
from .fpn import Extra, Level, apply_pyramid
from .heads import Tower, predict_levels, rare
from .pyramid_anchors import covered_size

GROUPS = 32  # groups of the norms in the towers


class Fcos(nn.Module):
    """A one-stage detector, which predicts class, box and centreness of each point.

    The outputs are ``stem`` and the stages of the backbone; ``fpn``, maps ``[b, h, w,
    fpn_channels]`` by level; and four dicts by level. Points are in the order of row
    and column:

    * ``class_logits`` float32 ``[b, h w, num_classes]``,
    * ``box_codes`` float32 ``[b, h w, 4]``, distances to the left, top, right and
      bottom side in strides, 0 or more,
    * ``centreness`` float32 ``[b, h w]``, logits, from the tower of boxes,
    * ``anchors`` ``[h w, 4]``, boxes of one stride around the points, ``x1 y1 x2 y2``
      in pixels of the input, the same for all images.

    Without classes, the outputs end with the pyramid. The network is that of
    torchvision. The variant of mmdetection that divides distances by strides has
    ``point_offset=0.5, level_scales=True, nominal_strides=True``.

    Attributes:
      make_backbone: a ResNet, called with ``num_classes`` and its options.
      num_classes: number of logits of each point, 0 to end with the pyramid.
      width: width of the backbone, see
        :class:`diffkd_jax.models.backbones.resnet.ResNet`.
      norm_train: whether the norms of the backbone take statistics of the batch in
        training.
      stride_in_first: whether bottlenecks of the backbone stride in their first
        convolution.
      fpn_channels: number of channels of the pyramid and the towers, a multiple of 32.
      levels: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      tower_depth: number of convolutions, each with a group norm, before the last one
        of each head.
      point_offset: distance of a point from the top left corner of its cell, in
        strides.
      level_scales: whether distances have a trained factor for each level.
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
    ...     build_network("fcos_resnet18", num_classes=80).init_with_output,
    ...     jax.random.key(0), np.ones((1, 64, 96, 3)))
    >>> out["class_logits"]["p3"].shape, out["centreness"]["p3"].shape
    ((1, 96, 80), (1, 96))
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
    point_offset: Share = 0.0
    level_scales: bool = False
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
          ValueError: levels cannot be made, or the channels are not a multiple of 32.
        """
        if self.fpn_channels % GROUPS:
            raise ValueError(
                f"fpn_channels: found {self.fpn_channels}, expected a multiple of "
                f"{GROUPS}, the groups of the norms"
            )
        outputs = apply_pyramid(self, self.levels, x, train=train)
        if not self.num_classes:
            return outputs
        maps = outputs["fpn"]
        tower = (self.tower_depth, self.fpn_channels, GROUPS, self.dtype)
        classes, boxes = (
            Tower(*tower, name=f"{name}_tower")(maps) for name in ("class", "box")
        )
        distances = predict_levels(boxes, 4, name="box_head")
        if self.level_scales:
            distances = {
                level: y * self.param(f"scale_{level}", nn.initializers.ones, ())
                for level, y in distances.items()
            }
        centreness = predict_levels(boxes, 1, name="centreness_head")
        return outputs | {
            "class_logits": predict_levels(
                classes, self.num_classes, bias_init=rare, name="class_head"
            ),
            "box_codes": {level: nn.relu(y) for level, y in distances.items()},
            "centreness": {level: y[..., 0] for level, y in centreness.items()},
            "anchors": {
                level: self._anchors(level, y.shape[1:3], x.shape[1:3])
                for level, y in maps.items()
            },
        }

    def _anchors(
        self, level: str, size: Sequence[int], image_size: Sequence[int]
    ) -> Float[np.ndarray, "_ 4"]:
        """Returns the anchors of one level."""
        covered = covered_size(self, level, size, image_size)
        # Boxes have sides of the nominal stride, even if that of the map differs.
        return points(size, covered, self.point_offset, 2 ** int(level[1]))
