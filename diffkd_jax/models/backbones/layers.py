"""Layers that the backbones share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ...backend.convolution import convolve
from ...backend.depthwise import depthwise
from ...core.conv_layers import uniform_bias, uniform_fan_in
from ...core.norm import BatchNorm

fan_out_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# A function that makes layers: ``ConvNorm`` with the options that a model shares.
Layer = Callable[..., Any]


def make_conv(
    channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    padding: str = "symmetric",
    use_bias: bool = False,
    kernel_init: Callable[..., jax.Array] = fan_out_normal,
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros,
    dtype: Any = None,
    name: str,
) -> nn.Conv:
    """Makes a convolution, with He initialisation by fan-out unless another is given.

    Args:
      channels: number of output channels.
      kernel_size: side of the kernel.
      stride: stride on both axes.
      groups: number of groups; a depthwise convolution if equal to ``channels``.
      dilation: distance of the kernel's elements, in cells.
      padding: "symmetric" as in PyTorch, or "same" as in TensorFlow; with stride 2 they
        differ by one pixel.
      use_bias: whether there is a bias.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
      dtype: compute dtype, or None for float32.
      name: name of the layer in the module.

    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return make_conv(8, 3, stride=2, name="conv")(x)
    >>> y, _ = Net().init_with_output(jax.random.key(0), jnp.ones((1, 6, 6, 3)))
    >>> y.shape
    (1, 3, 3, 8)
    """
    symmetric = dilation * (kernel_size // 2)
    is_depthwise = groups > 1 and groups == channels
    return nn.Conv(
        channels,
        (kernel_size, kernel_size),
        (stride, stride),
        padding="SAME" if padding == "same" else symmetric,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        conv_general_dilated=depthwise if is_depthwise else convolve,
        dtype=dtype,
        name=name,
    )


class ConvNorm(nn.Module):
    """A convolution, a batch norm and an activation; the norm may be folded away.

    If :func:`diffkd_jax.models.fold` has removed the norm from the variables, the layer
    is a convolution with bias and an activation.

    Attributes:
      channels: number of output channels.
      kernel_size: side of the kernel.
      stride: stride on both axes.
      train: whether to normalise by statistics of the batch and update the running
        ones.
      activation: elementwise function, or None.
      groups: number of groups; a depthwise convolution if equal to ``channels``.
      dilation: distance of the kernel's elements, in cells.
      padding: "symmetric" or "same", see :func:`make_conv`.
      use_bias: whether there is a bias before the norm, as in some references.
      kernel_init: initialiser of the kernel.
      zero_scale: whether the scale of the norm starts at zero.
      epsilon: see :class:`diffkd_jax.core.norm.BatchNorm`.
      momentum: see :class:`diffkd_jax.core.norm.BatchNorm`.
      group_size: see :class:`diffkd_jax.core.norm.BatchNorm`.
      dtype: compute dtype, or None for float32.

    >>> layer = ConvNorm(8, 3, stride=2)
    >>> y, _ = layer.init_with_output(jax.random.key(0), jnp.ones((1, 6, 6, 3)))
    >>> y.shape
    (1, 3, 3, 8)
    """

    channels: int
    kernel_size: int = 1
    stride: int = 1
    train: bool = False
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    groups: int = 1
    dilation: int = 1
    padding: str = "symmetric"
    use_bias: bool = False
    kernel_init: Callable[..., jax.Array] = fan_out_normal
    zero_scale: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9
    group_size: int | None = None
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Applies the layer to a map.

        Args:
          x: ``[b, h, w, c]``.

        Raises:
          ValueError: the variables are folded and ``train`` is true.
        """
        folded = not self.is_initializing() and "norm" not in self.variables["params"]
        if folded and self.train:
            raise ValueError(
                f"{'/'.join(self.path)}: found folded variables, expected unfolded "
                "ones in training mode"
            )
        x = make_conv(
            self.channels,
            self.kernel_size,
            stride=self.stride,
            groups=self.groups,
            dilation=self.dilation,
            padding=self.padding,
            use_bias=self.use_bias or folded,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        if not folded:
            x = BatchNorm(
                not self.train,
                momentum=self.momentum,
                epsilon=self.epsilon,
                group_size=self.group_size,
                zero_scale=self.zero_scale,
                dtype=self.dtype,
                name="norm",
            )(x)
        return x if self.activation is None else self.activation(x)


def shared_layer(model: nn.Module, train: bool, **options: Any) -> Layer:
    """Returns :class:`ConvNorm` with the options that all layers of a model share.

    Args:
      model: a module with the fields ``norm_group_size`` and ``dtype``.
      train: whether the layers are trained.
      **options: further fields of :class:`ConvNorm`.

    >>> from diffkd_jax.models import build_network
    >>> layer = shared_layer(build_network("resnet8", num_classes=10), train=False)
    >>> layer(16, 3).channels
    16
    """
    group_size, dtype = model.norm_group_size, model.dtype
    return partial(ConvNorm, train=train, group_size=group_size, dtype=dtype, **options)


def drop_path(
    x: Float[Array, "b *dims"], rate: float, *, train: bool
) -> Float[Array, "b *dims"]:
    """Drops whole examples with probability ``rate``, as in stochastic depth.

    Call it in a compact Flax module; it draws from the random stream ``dropout``.

    Args:
      x: ``[b, ...]``, output of a branch.
      rate: probability that ``x[i]`` is set to 0, in [0, 1). The others are divided by
        ``1 - rate``.
      train: whether to drop examples at all.

    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return drop_path(x, 0.5, train=True)
    >>> y = Net().apply({}, jnp.ones((9, 2)), rngs={"dropout": jax.random.key(0)})
    >>> sorted(set(y.ravel().tolist()))
    [0.0, 2.0]
    """
    axes = tuple(range(1, x.ndim))
    return nn.Dropout(rate, broadcast_dims=axes, deterministic=not train)(x)


def pool_and_classify(
    features: Float[Array, "b h w c"],
    num_classes: int,
    *,
    dropout: float = 0.0,
    train: bool = False,
) -> dict[str, Float[Array, "b *dims"]]:
    """Returns the last map of a classifier, its mean over all positions, and logits.

    Mean and logits are computed in float32.

    Call it in a compact Flax module, which then owns the layer ``head``.

    Args:
      features: ``[b, h, w, c]``.
      num_classes: number of logits, 0 for none.
      dropout: dropout rate before the head.
      train: whether the network is trained.

    Returns:
      ``features``, the map as it is; ``pooled`` ``[b, c]``; and, with classes,
      ``logits`` ``[b, num_classes]``.

    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         return pool_and_classify(x, 10)
    >>> out, _ = Net().init_with_output(jax.random.key(0), jnp.ones((1, 6, 6, 3)))
    >>> out["pooled"].shape, out["logits"].shape
    ((1, 3), (1, 10))
    """
    pooled = jnp.mean(features.astype(jnp.float32), (1, 2))
    outputs = {"features": features, "pooled": pooled}
    if not num_classes:
        return outputs
    dropped = nn.Dropout(dropout, deterministic=not train)(pooled)
    outputs["logits"] = nn.Dense(
        num_classes,
        kernel_init=uniform_fan_in,
        bias_init=uniform_bias(pooled.shape[-1]),
        name="head",
    )(dropped)
    return outputs
