"""Semantic segmentation: DeepLabV3 (Chen et al. 2017) and PSPNet (Zhao et al. 2017)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ...bounds import Channels, Dilation, Factor, Part
from ...core.modules import uniform_bias, uniform_fan_in
from ...ops.resize import adaptive_mean, bilinear
from ..backbones.layers import Layer, layer_of
from ..options import option_names
from .backbone import backbone_of

OF_ASPP = ("rates", "aspp_dropout")
BINS = (1, 2, 3, 6)  # of the pyramid, on each side


class Aspp(nn.Module):
    """Parallel convolutions of several dilations and a global mean, joined by a 1x1.

    Attributes:
      channels: of each branch and of the result.
      rates: dilations of the 3x3 convolutions.
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the model's
        options.

    >>> from functools import partial
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> net = Aspp(8, (2, 4), partial(ConvNorm, train=False))
    >>> y, _ = net.init_with_output(jax.random.key(0), jnp.ones((1, 9, 7, 3)))
    >>> y.shape
    (1, 9, 7, 8)
    """

    channels: int
    rates: tuple[int, ...]
    layer: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.channels
        branches = [self.layer(c, 1, name="branch0")(x)]
        for i, rate in enumerate(self.rates, 1):
            branch = self.layer(c, 3, dilation=rate, name=f"branch{i}")
            branches.append(branch(x))
        # One pixel, resized to the map in whichever way.
        pooled = self.layer(c, 1, name="pooled")(adaptive_mean(x, (1, 1)))
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        return self.layer(c, 1, name="project")(jnp.concatenate(branches, -1))


class Pyramid(nn.Module):
    """A map with its means over 1, 2, 3, 6 bins a side, each reduced to a quarter.

    Attributes:
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the model's
        options.
      align_corners: of the resizing of the means.
    """

    layer: Layer
    align_corners: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        parts = [x]
        for i, bins in enumerate(BINS):
            y = adaptive_mean(x, (bins, bins))
            y = self.layer(x.shape[-1] // len(BINS), 1, name=f"level{i}")(y)
            parts.append(bilinear(y, x.shape[1:3], align_corners=self.align_corners))
        return jnp.concatenate(parts, -1)


class Segmenter(nn.Module):
    """A backbone, a head that looks around each position, logits of each position.

    Outputs: the backbone's ``stem`` and stages, ``features`` (before the last 1x1
    convolution, ``aspp_channels``), ``logits`` ``[b, h/s, w/s, num_classes]`` at the
    output stride s, rounded up and not resized, and ``aux_logits`` likewise where there
    is an auxiliary head. Logits are float32. As in CIRKD's definition unless said; with
    ``deep_stem=False, align_corners=False, head_dropout=0.0`` as in torchvision's.

    Attributes:
      make_backbone: a backbone, to be called with ``num_classes`` and its options.
      kind: of the head, "aspp" (DeepLabV3) or "pyramid" (PSPNet).
      num_classes: number of logits, 0 for none, auxiliary ones neither.
      aspp_channels: of the ASPP and of the 3x3 convolution after it or the pyramid.
      rates: dilations of the ASPP, in positions of its map.
      aspp_dropout: rate after the ASPP.
      head_dropout: rate before the logits.
      aux: whether there is an auxiliary head, on the last stage but one.
      aux_dropout: rate before its logits.
      align_corners: how the pyramid is resized.
      output_stride: of the backbone, where it can dilate.
      deep_stem: likewise, of ResNets.
      width: likewise, of MobileNetV2; None for the backbone's own.
      channels: likewise, of CIFAR ResNets.
      norm_group_size: examples per batch norm statistics, or None for all.
      dtype: compute dtype, or None for float32.

    Raises:
      ValueError: an output stride that the backbone does not have; in training one
        example per group of statistics, of which the global mean is a single value.

    >>> from diffkd_jax.models import build_network
    >>> out, _ = jax.eval_shape(
    ...     build_network("deeplabv3_resnet18", num_classes=19).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 65, 97, 3)))
    >>> out["features"].shape, out["logits"].shape, out["aux_logits"].shape
    ((1, 9, 13, 128), (1, 9, 13, 19), (1, 9, 13, 19))
    """

    make_backbone: Callable[..., nn.Module]
    kind: str
    num_classes: int
    aspp_channels: Channels = 128
    rates: tuple[Dilation, Dilation, Dilation] = (12, 24, 36)
    aspp_dropout: Part = 0.5
    head_dropout: Part = 0.1
    aux: bool = True
    aux_dropout: Part = 0.1
    align_corners: bool = True
    output_stride: int = 8
    deep_stem: bool = True
    width: Factor | None = None
    channels: tuple[Channels, Channels, Channels, Channels] | None = None
    norm_group_size: int | None = None
    dtype: Any = None

    @staticmethod
    def closed(make_backbone: Callable[..., nn.Module], kind: str) -> set[str]:
        """Fields that mean nothing for such a backbone and head."""
        kinds = option_names(make_backbone).items()
        # A factor; that of ResNets counts channels.
        own = {n for n, kind in kinds if (n, kind) != ("width", Channels)}
        lacking = {"channels", "deep_stem", "output_stride", "width"} - own
        return lacking | (set() if kind == "aspp" else set(OF_ASPP))

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        layer = layer_of(self, train, kernel_init=uniform_fan_in)
        outputs = backbone_of(self, name="backbone")(x, train=train)
        outputs = {n: y for n, y in outputs.items() if n.startswith("st")}
        *_, before, x = (y for n, y in outputs.items() if n.startswith("stage"))
        drop = lambda x, rate: nn.Dropout(rate, deterministic=not train)(x)
        if self.kind == "aspp":
            x = Aspp(self.aspp_channels, self.rates, layer, name="aspp")(x)
            x = drop(x, self.aspp_dropout)
        else:
            x = Pyramid(layer, self.align_corners, name="pyramid")(x)
        x = layer(self.aspp_channels, 3, name="block")(x)
        outputs["features"] = x
        if not self.num_classes:
            return outputs
        outputs["logits"] = self._classify(drop(x, self.head_dropout), "head")
        if self.aux:
            x = layer(before.shape[-1] // 4, 3, name="aux_block")(before)
            x = self._classify(drop(x, self.aux_dropout), "aux_head")
            outputs["aux_logits"] = x
        return outputs

    def _classify(self, x: jax.Array, name: str) -> jax.Array:
        return nn.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=uniform_fan_in,
            bias_init=uniform_bias(x.shape[-1]),
            name=name,
        )(x.astype(jnp.float32))
