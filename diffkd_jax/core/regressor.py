"""A control for the denoiser: a network of its size that is applied once."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .conv_layers import apply_conv
from .modules import NoisePredictor
from .norm import BatchNorm


class Regressor(nn.Module):
    """A two-layer network with as many parameters as the noise predictor.

    The first layer is a convolution with batch norm and ReLU, the second one a 1x1
    convolution. :func:`count_units` gives the number of units between them. The
    predictor's table of time embeddings does not count, because it only shifts
    features by a constant, which batch norm removes in denoising.

    Attributes:
      kernel_size: 3 for maps, 1 for vectors.
      norm: batch-norm module class, called as ``norm(use_running_average=...)``.
      dtype: compute dtype, or None for that of the input.
      width: factor of the inner widths of the noise predictor.

    >>> x = jnp.ones((2, 4, 4, 8))
    >>> y, _ = Regressor().init_with_output(jax.random.key(0), x, train=True)
    >>> y.shape
    (2, 4, 4, 8)
    """

    kernel_size: int = 3
    norm: Callable[..., Any] = BatchNorm
    dtype: DTypeLike | None = None
    width: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Maps ``[b, h, w, c]`` to the same shape."""
        channels = x.shape[-1]
        wide, narrow = count_units(self.kernel_size, channels, self.width)
        parts = [
            apply_conv(x, units, size, dtype=self.dtype, name=name)
            for units, size, name in ((wide, 3, "conv3"), (narrow, 1, "conv1"))
            if units
        ]
        hidden = self.norm(use_running_average=not train, name="norm")(
            jnp.concatenate(parts, -1)
        )
        return apply_conv(nn.relu(hidden), channels, dtype=self.dtype, name="output")


@functools.cache
def count_units(kernel_size: int, channels: int, width: float = 1.0) -> tuple[int, int]:
    """Returns the numbers of 3x3 and of 1x1 units in the regressor's first layer.

    There are as many 3x3 units as fit, and 1x1 units for the rest. So the numbers of
    parameters differ by at most 2 %, for maps of 8 channels or more and for vectors.

    Args:
      kernel_size: 3 for maps; 1 for vectors, which have 1x1 units only.
      channels: number of channels of the latent.
      width: factor of the inner widths of the noise predictor.

    >>> count_units(3, 64), count_units(1, 10)
    ((21, 0), (0, 81))
    """
    wanted = _count_denoiser(kernel_size, channels, width) - channels  # output biases
    # A unit has weights, a bias, two values of batch norm, and weights to the output.
    cost = {size: (size**2 + 1) * channels + 3 for size in (3, 1)}
    wide = wanted // cost[3] if kernel_size == 3 else 0
    return wide, round((wanted - wide * cost[3]) / cost[1])


def _count_denoiser(kernel_size: int, channels: int, width: float) -> int:
    """Returns the number of parameters of a noise predictor without its time table."""
    x = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    predictor = NoisePredictor(kernel_size, width=width, parent=None)
    init = functools.partial(predictor.init, train=False)
    params = jax.eval_shape(init, key, x, t)["params"]
    del params["time_embedding"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))
