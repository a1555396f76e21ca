"""Feature pyramid network (Lin et al. 2017) on the stages of a backbone."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
from jaxtyping import Array, Float, PyTree

from ...ops.resize import nearest
from ..backbones.layers import make_conv
from .backbone import backbone_of

Level = Literal["p2", "p3", "p4", "p5", "p6", "p7"]  # 1/4, 1/8, ... of the image
LEVELS = get_args(Level)
LAST = "p5"  # last level of a backbone with four stages
Extra = Literal["p5", "c5", "pool"]
# Uniform with bound sqrt(3 / fan-in).
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class Fpn(nn.Module):
    """A feature pyramid: maps of equal channels at several scales, from fine to coarse.

    Each map also takes in the coarser ones. Source: Lin et al. 2017, section 3, in
    torchvision's form: convolutions with bias, without norm or activation.

    Attributes:
      levels: levels of the output, from fine to coarse, such as ``("p3", "p4", "p5",
        "p6", "p7")``. p6 and p7 are coarser than the maps of the backbone.
      channels: number of channels of each map.
      extra: what p6 is made from. "p5" is as in RetinaNet and FCOS of torchvision;
        "c5", the last map of the backbone, as in RetinaNet of mmdetection; "pool",
        every second element of p5, as in Faster R-CNN. p7 is made from p6.
      relu_before_extra: whether a ReLU comes before the convolution to p7.
      dtype: compute dtype, or None for float32.

    >>> maps = {"p4": jax.numpy.ones((1, 5, 7, 6)), "p5": jax.numpy.ones((1, 3, 4, 9))}
    >>> net = Fpn(("p4", "p5", "p6"), channels=8)
    >>> out, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), maps)
    >>> {level: x.shape[1:] for level, x in out.items()}
    {'p4': (5, 7, 8), 'p5': (3, 4, 8), 'p6': (2, 2, 8)}
    """

    levels: tuple[Level, ...]
    channels: int = 256
    extra: Extra = "p5"
    relu_before_extra: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(
        self, maps: Mapping[str, Float[Array, "b _ _ _"]]
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Computes the maps of the pyramid.

        Args:
          maps: ``[b, h, w, c]`` by level, maps of the backbone from the first of
            ``levels`` to the coarsest. All of them take part, also those that are not
            in ``levels``.

        Returns:
          ``[b, h, w, channels]`` for each of ``levels``.

        Raises:
          ValueError: the levels are not in order, or cannot be made.
        """
        check_levels(self.levels)
        layer = partial(
            make_conv,
            self.channels,
            use_bias=True,
            kernel_init=kaiming_uniform,
            dtype=self.dtype,
        )
        outputs: dict[str, jax.Array] = {}
        above: Any = None
        for level in sorted(maps, reverse=True):
            x = layer(1, name=f"lateral_{level}")(maps[level])
            above = x if above is None else x + nearest(above, x.shape[1:3])
            if level in self.levels:
                outputs[level] = layer(3, name=f"output_{level}")(above)
        outputs = dict(sorted(outputs.items()))
        for level in self.levels[len(outputs) :]:
            if self.extra == "pool":
                outputs[level] = list(outputs.values())[-1][:, ::2, ::2]
                continue
            first = level == "p6"
            x = maps[LAST] if first and self.extra == "c5" else [*outputs.values()][-1]
            x = nn.relu(x) if self.relu_before_extra and not first else x
            outputs[level] = layer(3, stride=2, name=f"extra_{level}")(x)
        return outputs


def check_levels(levels: tuple[Level, ...]) -> None:
    """Raises an error if a pyramid on four stages cannot have these levels.

    Args:
      levels: levels from fine to coarse.

    Raises:
      ValueError: they are not neighbours in order, or start above p5.

    >>> check_levels(("p3", "p5"))
    Traceback (most recent call last):
    ...
    ValueError: levels: found ('p3', 'p5'), expected neighbours of ('p2', ..., 'p7') \
in order, the first of p2 to p5
    """
    start = LEVELS.index(levels[0]) if levels and levels[0] in LEVELS[:4] else -1
    if start < 0 or tuple(levels) != LEVELS[start : start + len(levels)]:
        raise ValueError(
            f"levels: found {tuple(levels)}, expected neighbours of ('p2', ..., 'p7') "
            "in order, the first of p2 to p5"
        )


# A function and not a method, so that detectors need no common base class.
def apply_pyramid(
    module: Any, levels: tuple[Level, ...], x: Float[Array, "b h w c"], *, train: bool
) -> dict[str, PyTree]:
    """Applies the backbone and the pyramid of a detector to images.

    Call it in the compact method of a network with the fields ``make_backbone``,
    ``fpn_channels``, ``extra``, ``relu_before_extra`` and ``dtype``. The network then
    owns the parts ``backbone`` and ``fpn``.

    Args:
      module: the network.
      levels: levels of the pyramid.
      x: ``[b, h, w, c]``, images.
      train: whether the backbone is trained.

    Returns:
      The maps of the backbone, ``stem`` and ``stage1`` to ``stage4``, and ``fpn``, the
      maps of the pyramid by level.

    >>> from diffkd_jax.models import build_network
    >>> net = build_network("retinanet_resnet10", num_classes=0)
    >>> out, _ = jax.eval_shape(
    ...     net.init_with_output, jax.random.key(0), jax.numpy.ones((1, 64, 64, 3)))
    >>> sorted(out)
    ['fpn', 'stage1', 'stage2', 'stage3', 'stage4', 'stem']
    """
    outputs = backbone_of(module, name="backbone")(x, train=train)
    outputs = {name: y for name, y in outputs.items() if name.startswith("st")}
    stages = {f"p{i + 1}": outputs[f"stage{i}"] for i in range(1, 5)}
    maps = {level: y for level, y in stages.items() if level >= levels[0]}
    fpn = Fpn(
        levels,
        module.fpn_channels,
        module.extra,
        module.relu_before_extra,
        module.dtype,
        name="fpn",
    )
    return outputs | {"fpn": fpn(maps)}
