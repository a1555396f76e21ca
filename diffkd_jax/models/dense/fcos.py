"""FCOS (Tian et al. 2019), a one-stage detector without anchors."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from ...bounds import Channels, Share
from ...ops.anchors import points
from .fpn import Extra, Level, pyramid_of
from .retinanet import Tower, covered, predict_levels, rare

GROUPS = 32  # of the norms of the towers


class Fcos(nn.Module):
    """One-stage detector: classes, distances to the sides, centreness of every point.

    Outputs: the backbone's ``stem`` and stages, ``fpn`` ``[b, h, w, fpn_channels]`` by
    level, and by level, float32, points by row, column: ``class_logits``
    ``[b, h w, num_classes]``, ``box_codes`` ``[b, h w, 4]`` (left, top, right, bottom
    in strides, 0 or more), ``centreness`` ``[b, h w]`` (logits, from the tower of
    boxes), and ``anchors`` ``[h w, 4]``, boxes of the stride's side around the points,
    constants without batch, x1 y1 x2 y2 in pixels of the input. Without classes nothing
    follows the pyramid. As torchvision's; the variant of mmdet that divides distances
    by strides has ``point_offset=0.5, level_scales=True,
    nominal_strides=True``.

    Attributes:
      make_backbone: a ResNet, to be called with ``num_classes`` and its options.
      num_classes: number of logits of a point.
      width: of the backbone.
      norm_train: of the backbone, whether its norms take statistics of the batch while
        training.
      stride_in_first: of the backbone's bottlenecks.
      fpn_channels: of the pyramid and the towers, a multiple of 32.
      levels, extra, relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      tower_depth: convolutions, each with a group norm, before the last of each head.
      point_offset: of the points from the top left corners of positions, strides.
      level_scales: a trained factor of the distances for every level.
      nominal_strides: positions are 2^level pixels apart, as mmdet has it; else what
        the sizes of picture and map give, as torchvision, which is less on p6 and p7 of
        pictures that these do not divide.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: levels that cannot be made, or channels that 32 does not divide.

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
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, Any]:
        if self.fpn_channels % GROUPS:
            raise ValueError(
                f"fpn_channels: found {self.fpn_channels}, expected a multiple of "
                f"{GROUPS}, the groups of the norms"
            )
        outputs = pyramid_of(self, self.levels, x, train=train)
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
    ) -> np.ndarray:
        whole = covered(self, level, size, image_size)
        # Sides of the nominal stride, also where the map's is another.
        return points(size, whole, self.point_offset, 2.0 ** int(level[1]))
