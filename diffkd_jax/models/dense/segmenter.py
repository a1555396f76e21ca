"""Networks for semantic segmentation: DeepLabV3 and PSPNet.

Sources: Chen et al. 2017, Zhao et al. 2017.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...bounds import Channels, Dilation, Factor, Part
from ...core.conv_layers import uniform_bias, uniform_fan_in
from ...ops.resize import adaptive_mean, bilinear
from ..backbones.layers import Layer, shared_layer
from ..options import option_names
from .backbone import backbone_of

ASPP_OPTIONS = ("rates", "aspp_dropout")
BINS = (1, 2, 3, 6)  # bins of the pyramid on each side


class Aspp(nn.Module):
    """The ASPP head: parallel convolutions of several dilations and a global mean.

    A 1x1 convolution joins their concatenation (Chen et al. 2017).

    Attributes:
      channels: number of channels of each branch and of the result.
      rates: dilations of the 3x3 convolutions.
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the model's
        options.

    >>> import jax
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
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Applies the head to a map.

        Args:
          x: ``[b, h, w, c]``.

        Returns:
          ``[b, h, w, channels]``.
        """
        c = self.channels
        branches = [self.layer(c, 1, name="branch0")(x)]
        for i, rate in enumerate(self.rates, 1):
            branch = self.layer(c, 3, dilation=rate, name=f"branch{i}")
            branches.append(branch(x))
        # The mean is a single cell, which any kind of resizing would copy to all cells.
        pooled = self.layer(c, 1, name="pooled")(adaptive_mean(x, (1, 1)))
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        return self.layer(c, 1, name="project")(jnp.concatenate(branches, -1))


class Pyramid(nn.Module):
    """The pyramid head: a map beside its means over 1, 2, 3 and 6 bins on each side.

    Each mean is reduced to a quarter of the channels, and resized (Zhao et al. 2017).

    Attributes:
      layer: :class:`diffkd_jax.models.backbones.layers.ConvNorm` with the model's
        options.
      align_corners: whether corners coincide when the means are resized.

    >>> import jax
    >>> from functools import partial
    >>> from diffkd_jax.models.backbones.layers import ConvNorm
    >>> net = Pyramid(partial(ConvNorm, train=False), True)
    >>> y, _ = jax.eval_shape(
    ...     net.init_with_output, jax.random.key(0), jnp.ones((1, 9, 7, 8)))
    >>> y.shape
    (1, 9, 7, 16)
    """

    layer: Layer
    align_corners: bool

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Concatenates a map and its resized means.

        Args:
          x: ``[b, h, w, c]``.

        Returns:
          ``[b, h, w, 2 c]``.
        """
        parts = [x]
        for i, bins in enumerate(BINS):
            y = adaptive_mean(x, (bins, bins))
            y = self.layer(x.shape[-1] // len(BINS), 1, name=f"level{i}")(y)
            parts.append(bilinear(y, x.shape[1:3], align_corners=self.align_corners))
        return jnp.concatenate(parts, -1)


class Segmenter(nn.Module):
    """A network for segmentation: a backbone, a head with a wide view, and logits.

    The outputs are ``stem`` and the stages of the backbone; ``features`` ``[b, h/s,
    w/s, aspp_channels]``, the map before dropout and the last 1x1 convolution;
    ``logits`` float32 ``[b, h/s, w/s, num_classes]``; and ``aux_logits`` of the same
    shape if there is an auxiliary head. Here s is the output stride; sizes are rounded
    up, and logits are not resized to the image. The network is that of CIRKD unless an
    attribute says otherwise. That of torchvision has ``deep_stem=False,
    align_corners=False, head_dropout=0.0``.

    Attributes:
      make_backbone: a backbone, called with ``num_classes`` and its options.
      kind: kind of the head, "aspp" (DeepLabV3) or "pyramid" (PSPNet).
      num_classes: number of logits; 0 for neither logits nor auxiliary logits.
      aspp_channels: number of channels of the ASPP, and of the 3x3 convolution after
        the head of either kind.
      rates: dilations of the ASPP, in cells of its map.
      aspp_dropout: dropout rate after the ASPP.
      head_dropout: dropout rate before the logits.
      aux: whether there is an auxiliary head, on the last stage but one.
      aux_dropout: dropout rate before the auxiliary logits.
      align_corners: whether corners coincide when the means of the pyramid are resized.
      output_stride: output stride of the backbone, if that can dilate.
      deep_stem: whether the backbone has a deep stem, if it is a ResNet.
      width: width of the backbone, if it is MobileNetV2; None for its default.
      channels: channels of the backbone, if it is a CIFAR ResNet; None for its default.
      norm_group_size: number of examples over which batch norms take statistics, or
        None for all.
      dtype: compute dtype, or None for float32.

    >>> import jax
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
    def unused_options(make_backbone: Callable[..., nn.Module], kind: str) -> set[str]:
        """Returns the options that have no effect with a backbone and a kind of head.

        Args:
          make_backbone: the backbone.
          kind: kind of the head, "aspp" or "pyramid".

        >>> from diffkd_jax.models import MODELS
        >>> sorted(Segmenter.unused_options(MODELS["resnet18"], "aspp"))
        ['channels', 'width']
        """
        kinds = option_names(make_backbone).items()
        # The width of a segmenter is a factor, that of a ResNet a number of channels.
        accepted = {n for n, kind in kinds if (n, kind) != ("width", Channels)}
        missing = {"channels", "deep_stem", "output_stride", "width"} - accepted
        return missing | (set() if kind == "aspp" else set(ASPP_OPTIONS))

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.

        Raises:
          ValueError: the backbone does not have this output stride; or in training,
            norms take statistics over one example, of which the global mean is a single
            value.
        """
        layer = shared_layer(self, train, kernel_init=uniform_fan_in)
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

    def _classify(
        self, x: Float[Array, "b h w c"], name: str
    ) -> Float[Array, "b h w k"]:
        """Applies the last 1x1 convolution, in float32."""
        return nn.Conv(
            self.num_classes,
            (1, 1),
            kernel_init=uniform_fan_in,
            bias_init=uniform_bias(x.shape[-1]),
            name=name,
        )(x.astype(jnp.float32))
