"""Parts that the heads of the detectors share: towers, and the last convolutions."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from ..backbones.layers import make_conv

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
