"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ...bounds import Channels, Positive, Share
from ...core.conv_layers import uniform_bias, uniform_fan_in
from ...ops.proposals import (
    Anchors,
    Proposals,
    propose,
    sample_anchors,
    sample_proposals,
)
from ...ops.roi_align import pool_boxes
from .fpn import Extra, Level, apply_pyramid
from .heads import Tower, predict_levels
from .pyramid_anchors import place_anchors

# Levels from which boxes are pooled. Coarser levels serve only to propose boxes.
POOLED = ("p2", "p3", "p4", "p5")


class FasterRcnn(nn.Module):
    """A two-stage detector: it proposes boxes, then classifies and refines them.

    The outputs are ``stem`` and the stages of the backbone; ``fpn``, maps ``[b, h, w,
    fpn_channels]`` by level; and two dicts. All but the maps are float32. Without
    classes, the outputs end with the pyramid.

    ``rpn``, the first stage, holds three dicts by level. With A ratios, anchors are in
    the order of row, column and ratio:

    * ``objectness`` ``[b, h w A]``, logits,
    * ``box_codes`` ``[b, h w A, 4]``, ``dx dy dw dh`` with weights 1,
    * ``anchors`` ``[h w A, 4]``, ``x1 y1 x2 y2`` in pixels of the input, the same for
      all images.

    ``roi``, the second stage, holds for R proposals and K classes:

    * ``boxes`` ``[b, R, 4]``, the proposals, ``x1 y1 x2 y2`` in pixels, without
      gradient,
    * ``valid`` bool ``[b, R]``, false for rows without a proposal,
    * ``class_logits`` ``[b, R, K + 1]``, where class 0 is the background,
    * ``box_codes`` ``[b, R, 4 (K + 1)]``, relative to the proposals, with weights 10 10
      5 5; the four codes of a class stand together.

    In inference R is ``proposals[1]``, and the proposals of highest objectness come
    first. In training R is ``samples``; these are drawn from the proposals and the true
    boxes. In training only,

    * ``roi`` also holds ``matched`` int32 ``[b, R]``, row of the object in the target
      or -1 for background, and ``weight`` ``[b, R]``, 0 for rows that stay empty
      because too few boxes could be drawn,
    * ``rpn`` also holds the anchors that are drawn to train on: ``rows`` int32 ``[b,
      anchor_samples]``, their rows in the concatenation of all levels, and ``matched``
      and ``weight`` of the same shape, with the same meaning.

    The network is that of torchvision's first version. That of mmdetection has
    ``rounded_anchors=False, nominal_strides=True, clamp_below=True, aligned=True,
    sampling_ratio=None, proposals=(1000, 1000)``.

    Attributes:
      make_backbone: a ResNet, called with ``num_classes`` and its options.
      num_classes: number K of classes, without the background; 0 to end with the
        pyramid.
      width: width of the backbone, see
        :class:`diffkd_jax.models.backbones.resnet.ResNet`.
      norm_train: whether the norms of the backbone take statistics of the batch in
        training.
      stride_in_first: whether bottlenecks of the backbone stride in their first
        convolution.
      fpn_channels: number of channels of the pyramid and of the first stage.
      levels: see :class:`diffkd_jax.models.dense.fpn.Fpn`. Boxes are pooled from the
        levels up to p5.
      extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`.
      anchor_sizes: side of a square anchor for each level, in pixels.
      ratios: ratios of height to width of the anchors.
      rounded_anchors: whether sides and corners of anchors are whole pixels.
      before_nms: number of anchors of each level that enter non-maximum suppression,
        those of highest objectness; one number for training, one for inference.
      proposals: number of proposals of each image; one number for training, one for
        inference.
      proposal_overlap: IoU above which the lower-scored proposal of the same level is
        dropped.
      clamp_below: whether sides of proposals are limited from below too, see
        :func:`diffkd_jax.ops.boxes.decode_boxes`.
      anchor_samples: number of anchors of each image to train on, at most half of them
        with an object.
      min_overlap: rule for the best anchor of each object, see ``to_truth`` of
        :func:`diffkd_jax.ops.assign.match`: None for that of torchvision, or the
        smallest IoU of that of mmdetection, which uses 0.3.
      samples: number of proposals of each image to train on.
      positive_share: largest share of these with an object, in [0, 1].
      roi_size: number of bins of a pooled box along each side.
      sampling_ratio: number of sampling points of a bin along each side. None gives
        about one for each cell of the map, at most 4.
      aligned: whether pixels are located at their centres when boxes are pooled.
      head_channels: number of channels of the two layers on pooled boxes.
      nominal_strides: if true, the cells of a map are 2^level pixels apart, as in
        mmdetection. If false, their distance follows from the sizes of image and map,
        as in torchvision; on p6 and p7 it is smaller for images that these strides do
        not divide.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> from diffkd_jax.models import build_network
    >>> out, _ = jax.eval_shape(
    ...     build_network("faster_rcnn_resnet18", num_classes=80).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 64, 96, 3)))
    >>> out["rpn"]["objectness"]["p2"].shape, out["roi"]["class_logits"].shape
    ((1, 1152), (1, 1000, 81))
    """

    make_backbone: Callable[..., nn.Module]
    num_classes: int
    width: Channels = 64
    norm_train: bool = False
    stride_in_first: bool = False
    fpn_channels: Channels = 256
    levels: tuple[Level, ...] = ("p2", "p3", "p4", "p5", "p6")
    extra: Extra = "pool"
    relu_before_extra: bool = True
    anchor_sizes: tuple[Positive, ...] = (32, 64, 128, 256, 512)
    ratios: tuple[Positive, ...] = (0.5, 1, 2)
    rounded_anchors: bool = True
    before_nms: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_overlap: Share = 0.7
    clamp_below: bool = False
    anchor_samples: int = 256
    min_overlap: Share | None = None
    samples: int = 512
    positive_share: Share = 0.25
    roi_size: int = 7
    sampling_ratio: int | None = 2
    aligned: bool = False
    head_channels: Channels = 1024
    nominal_strides: bool = False
    norm_group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        *,
        train: bool = False,
        size: Int[Array, "b 2"] | None = None,
        target: Mapping[str, PyTree] | None = None,
    ) -> dict[str, PyTree]:
        """Computes the outputs for images, see the class.

        In training it draws from the random stream ``sample``.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.
          size: ``[b, 2]``, height and width of each image inside its padded array, in
            pixels, to which proposals are clipped; None for the whole array.
          target: needed in training: ``boxes`` float32 ``[b, M, 4]``, in pixels of the
            input, and ``valid`` bool ``[b, M]``.

        Raises:
          ValueError: the number of sizes is not that of levels, levels cannot be made,
            or there is no target in training.
        """
        outputs = apply_pyramid(self, self.levels, x, train=train)
        if not self.num_classes:
            return outputs
        rpn = self._rpn(outputs["fpn"], x.shape[1:3])
        if size is None:
            size = jnp.broadcast_to(jnp.array(x.shape[1:3]), (len(x), 2))
        before, after = (
            n[0 if train else 1] for n in (self.before_nms, self.proposals)
        )
        boxes, valid = jax.vmap(
            lambda objectness, codes, size: propose(
                objectness,
                codes,
                rpn["anchors"],
                size,
                before=before,
                after=after,
                threshold=self.proposal_overlap,
                clamp_below=self.clamp_below,
            )
        )(rpn["objectness"], rpn["box_codes"], size)
        samples: dict[str, Any] = {}
        if train:
            anchors, sampled = self._sample(rpn["anchors"], boxes, valid, target)
            rpn |= anchors._asdict()
            boxes, valid = sampled.boxes, sampled.weight > 0
            samples = {"matched": sampled.matched, "weight": sampled.weight}
        roi = self._classify(outputs["fpn"], boxes)
        roi |= {"boxes": boxes, "valid": valid} | samples
        return outputs | {"rpn": rpn, "roi": roi}

    def _rpn(
        self, maps: Mapping[str, jax.Array], image_size: tuple[int, ...]
    ) -> dict[str, PyTree]:
        """Computes the outputs of the first stage."""
        count = len(self.ratios)
        tower = Tower(1, self.fpn_channels, 0, self.dtype, name="rpn_tower")
        y = tower(maps)
        logits = predict_levels(y, 1, count, kernel_size=1, name="rpn_class_head")
        return {
            "objectness": {level: value[..., 0] for level, value in logits.items()},
            "box_codes": predict_levels(
                y, 4, count, kernel_size=1, name="rpn_box_head"
            ),
            "anchors": place_anchors(
                self, maps, image_size, [[side] for side in self.anchor_sizes]
            ),
        }

    def _sample(
        self,
        anchors: Mapping[str, Float[np.ndarray, "_ 4"]],
        boxes: Float[Array, "b R 4"],
        valid: Bool[Array, "b R"],
        target: Mapping[str, PyTree] | None,
    ) -> tuple[Anchors, Proposals]:
        """Draws the anchors and the proposals to train on."""
        if target is None or not {"boxes", "valid"} <= set(target):
            raise ValueError(
                f"target: found {sorted(target or ())}, expected boxes and valid "
                "in training"
            )
        objects = target["boxes"], target["valid"]
        keys = jax.random.split(self.make_rng("sample"), (2, len(boxes)))
        draw_anchors = partial(
            sample_anchors, count=self.anchor_samples, to_truth=self.min_overlap
        )
        all_anchors = jnp.concatenate(list(anchors.values()))
        draw_anchors = jax.vmap(draw_anchors, in_axes=(0, None, 0, 0))
        sampled_anchors = draw_anchors(keys[0], all_anchors, *objects)
        draw_proposals = partial(
            sample_proposals, count=self.samples, positive_share=self.positive_share
        )
        sampled_boxes = jax.vmap(draw_proposals)(keys[1], boxes, valid, *objects)
        return sampled_anchors, sampled_boxes

    def _classify(
        self, maps: Mapping[str, jax.Array], boxes: Float[Array, "b R 4"]
    ) -> dict[str, jax.Array]:
        """Pools boxes, and computes the outputs of the second stage."""
        pool = partial(
            pool_boxes,
            size=(self.roi_size, self.roi_size),
            sampling_ratio=self.sampling_ratio or 0,
            aligned=self.aligned,
        )
        y = jax.vmap(pool)({k: v for k, v in maps.items() if k in POOLED}, boxes)
        # Channels come first, as in the order of PyTorch's weights.
        y = y.transpose(0, 1, 4, 2, 3).reshape(*boxes.shape[:2], -1)
        for i in range(2):
            y = nn.relu(_dense(y, self.head_channels, self.dtype, f"head_dense{i}"))
        y, classes = y.astype(jnp.float32), self.num_classes + 1
        return {
            "class_logits": _dense(y, classes, None, "class_head"),
            "box_codes": _dense(y, 4 * classes, None, "box_head"),
        }


def _dense(
    x: Float[Array, "*dims c"], channels: int, dtype: Any, name: str
) -> Float[Array, "*dims d"]:
    """Applies a new linear layer with PyTorch's initialisation, in a compact method."""
    return nn.Dense(
        channels,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(x.shape[-1]),
        dtype=dtype,
        name=name,
    )(x)
