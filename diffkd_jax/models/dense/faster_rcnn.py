"""Faster R-CNN (Ren et al. 2015) on a feature pyramid (Lin et al. 2017)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...bounds import Channels, Positive, Share
from ...core.modules import uniform_bias, uniform_fan_in
from ...ops.anchors import grid_anchors
from ...ops.proposals import propose, sample_anchors, sample_proposals
from ...ops.roi_align import multiscale
from .fpn import Extra, Level, pyramid_of
from .retinanet import Tower, check_sizes, covered, predict_levels

# Levels that boxes are pooled from; a coarser one is for proposals alone.
POOLED = ("p2", "p3", "p4", "p5")


class FasterRcnn(nn.Module):
    """Two-stage detector: proposals of a network on every position, then their classes.

    Outputs: the backbone's ``stem`` and stages, ``fpn`` ``[b, h, w, fpn_channels]`` by
    level; ``rpn`` of ``objectness`` ``[b, h w A]`` (logits), ``box_codes``
    ``[b, h w A, 4]`` (weights 1), ``anchors`` ``[h w A, 4]`` (constants without batch,
    pixels of the input), each by level with A ratios, ordered by row, column, ratio;
    and ``roi`` of ``boxes`` ``[b, R, 4]`` (x1 y1 x2 y2, pixels, without gradient),
    ``valid`` bool ``[b, R]``, ``class_logits`` ``[b, R, K + 1]`` (0 is background),
    ``box_codes`` ``[b, R, 4 (K + 1)]`` (a class's four together, weights 10 10 5 5).
    All are float32 but the maps. In inference R is the number of proposals, best first.
    In training R is ``samples``, drawn from the proposals and the objects themselves,
    with ``matched`` int32 ``[b, R]`` (row of the object in the target, -1 for
    background) and ``weight`` float32 ``[b, R]`` (0 where nothing was left to draw);
    and ``rpn`` has ``rows``, ``matched`` and ``weight`` ``[b, anchor_samples]`` of the
    anchors drawn, all levels in a row.
    Without classes nothing follows the pyramid. As torchvision's first version; mmdet's
    with ``rounded_anchors=False, nominal_strides=True, clamp_below=True, aligned=True,
    sampling_ratio=None, proposals=(1000, 1000)``.

    Called with ``size`` int32 ``[b, 2]`` where pictures are padded, which proposals are
    clipped to; and in training with ``target`` of ``boxes`` f32 ``[b, M, 4]``, pixels
    of the input, and ``valid`` bool ``[b, M]``, and with the random stream ``sample``.

    Attributes:
      make_backbone: a ResNet, to be called with ``num_classes`` and its options.
      num_classes: number K of classes, without background.
      width: of the backbone.
      norm_train: of the backbone, whether its norms take statistics of the batch while
        training.
      stride_in_first: of the backbone's bottlenecks.
      fpn_channels: of the pyramid and the network for proposals.
      levels, extra, relu_before_extra: see :class:`diffkd_jax.models.dense.fpn.Fpn`;
        boxes are pooled from those up to p5.
      anchor_sizes: side of a square anchor of each level, pixels.
      ratios: of height to width.
      rounded_anchors: sides and corners in whole pixels.
      before_nms: best anchors of a level that may become proposals, in training and in
        inference.
      proposals: of a picture, likewise.
      proposal_overlap: IoU above which the worse of two of a level is dropped.
      clamp_below: box codes of proposals are limited on both sides.
      anchor_samples: anchors of a picture to train on, at most half of them standing
        for objects.
      min_overlap: IoU that an anchor which is the best of an object must have, to stand
        for that one, as mmdet has it (0.3); None for torchvision's rule.
      samples: proposals of a picture to train on.
      positive_share: at most this share of them stands for objects.
      roi_size: bins of a pooled box, on each side.
      sampling_ratio: points of a bin, on each side; None for about one a cell, 4 at
        most.
      aligned: pixels are their centres where boxes are pooled.
      head_channels: of the two layers on pooled boxes.
      nominal_strides: positions are 2^level pixels apart, as mmdet has it; else what
        the sizes of picture and map give, as torchvision, which is less on p6 and p7 of
        pictures that these do not divide.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: not as many sizes as levels, levels that cannot be made, or in
        training no target.

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
        x: jax.Array,
        *,
        train: bool = False,
        size: jax.Array | None = None,
        target: Mapping[str, jax.Array] | None = None,
    ) -> dict[str, Any]:
        outputs = pyramid_of(self, self.levels, x, train=train)
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
        drawn: dict[str, Any] = {}
        if train:
            anchors, sampled = self._sample(rpn["anchors"], boxes, valid, target)
            rpn |= anchors._asdict()
            boxes, valid = sampled.boxes, sampled.weight > 0
            drawn = {"matched": sampled.matched, "weight": sampled.weight}
        roi = self._classify(outputs["fpn"], boxes)
        roi |= {"boxes": boxes, "valid": valid} | drawn
        return outputs | {"rpn": rpn, "roi": roi}

    def _rpn(self, maps: Mapping, image_size: tuple[int, ...]) -> dict[str, Any]:
        check_sizes(self.anchor_sizes, self.levels)
        count = len(self.ratios)
        tower = Tower(1, self.fpn_channels, 0, self.dtype, name="rpn_tower")
        y = tower(maps)
        logits = predict_levels(y, 1, count, kernel_size=1, name="rpn_class_head")
        rounded = self.rounded_anchors
        return {
            "objectness": {level: value[..., 0] for level, value in logits.items()},
            "box_codes": predict_levels(
                y, 4, count, kernel_size=1, name="rpn_box_head"
            ),
            "anchors": {
                level: grid_anchors(
                    value.shape[1:3],
                    covered(self, level, value.shape[1:3], image_size),
                    [side],
                    self.ratios,
                    rounded,
                )
                for (level, value), side in zip(
                    maps.items(), self.anchor_sizes, strict=True
                )
            },
        }

    def _sample(
        self, anchors: Mapping, boxes: jax.Array, valid: jax.Array, target: Any
    ) -> tuple[Any, Any]:
        if target is None or not {"boxes", "valid"} <= set(target):
            raise ValueError(
                f"target: found {sorted(target or ())}, expected boxes and valid "
                "while training"
            )
        truth = target["boxes"], target["valid"]
        keys = jax.random.split(self.make_rng("sample"), (2, len(boxes)))
        first = partial(
            sample_anchors, count=self.anchor_samples, to_truth=self.min_overlap
        )
        joined = jnp.concatenate(list(anchors.values()))
        of_anchors = jax.vmap(first, in_axes=(0, None, 0, 0))(keys[0], joined, *truth)
        second = partial(
            sample_proposals, count=self.samples, positive_share=self.positive_share
        )
        return of_anchors, jax.vmap(second)(keys[1], boxes, valid, *truth)

    def _classify(self, maps: Mapping, boxes: jax.Array) -> dict[str, jax.Array]:
        pool = partial(
            multiscale,
            size=(self.roi_size, self.roi_size),
            sampling_ratio=self.sampling_ratio or 0,
            aligned=self.aligned,
        )
        y = jax.vmap(pool)({k: v for k, v in maps.items() if k in POOLED}, boxes)
        # Channels first, in the order of the weights of PyTorch.
        y = y.transpose(0, 1, 4, 2, 3).reshape(*boxes.shape[:2], -1)
        for i in range(2):
            y = nn.relu(_dense(y, self.head_channels, self.dtype, f"head_dense{i}"))
        y, classes = y.astype(jnp.float32), self.num_classes + 1
        return {
            "class_logits": _dense(y, classes, None, "class_head"),
            "box_codes": _dense(y, 4 * classes, None, "box_head"),
        }


# No method: called in those of the network, it makes layers of that.
def _dense(x: jax.Array, channels: int, dtype: Any, name: str) -> jax.Array:
    return nn.Dense(
        channels,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(x.shape[-1]),
        dtype=dtype,
        name=name,
    )(x)
