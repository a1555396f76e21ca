"""Resizing of feature maps by the rules of ``torch.nn.functional``.

``jax.image.resize`` follows other rules: it has no ``align_corners``, it blurs when it
shrinks, and its nearest neighbour is taken at the centres of pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def bilinear(
    x: Float[Array, "b h w c"], size: Sequence[int], *, align_corners: bool
) -> Float[Array, "b h2 w2 c"]:
    """Resizes maps bilinearly, without blurring when they shrink.

    Args:
      x: ``[b, h, w, c]``, floating.
      size: ``(h', w')``.
      align_corners: if true, the centres of the corner pixels of both maps coincide; if
        false, the outer borders of both maps do. As in
        ``interpolate(mode="bilinear")``.

    Returns:
      ``[b, h', w', c]`` in the dtype of ``x``, summed in float32 or wider.

    Raises:
      ValueError: ``x`` is not a map, or a size is below 1.

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> bilinear(x, (1, 5), align_corners=True).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    _check(x, size)
    pairs = zip(x.shape[1:3], size, strict=True)
    return _apply(x, [_bilinear_weights(n, m, align_corners) for n, m in pairs])


def nearest(
    x: Shaped[Array, "b h w c"], size: Sequence[int]
) -> Shaped[Array, "b h2 w2 c"]:
    """Resizes maps by the nearest pixel, as ``interpolate(mode="nearest")`` does.

    Row ``i`` of the result is row ``floor(i h / h')`` of ``x``; likewise for columns.

    Args:
      x: ``[b, h, w, c]``, any dtype.
      size: ``(h', w')``.

    Returns:
      ``[b, h', w', c]``.

    Raises:
      ValueError: ``x`` is not a map, or a size is below 1.

    >>> nearest(jnp.arange(3).reshape(1, 1, 3, 1), (1, 5)).ravel().tolist()
    [0, 0, 1, 1, 2]
    """
    _check(x, size)
    for axis, wanted in enumerate(size, 1):
        n = x.shape[axis]
        if n != wanted:
            x = jnp.take(x, np.arange(wanted) * n // wanted, axis)
    return x


def adaptive_mean(
    x: Float[Array, "b h w c"], size: Sequence[int]
) -> Float[Array, "b h2 w2 c"]:
    """Averages maps over ``h'`` times ``w'`` bins, as ``adaptive_avg_pool2d`` does.

    Bin i begins at ``floor(i h / h')`` and ends before ``ceil((i + 1) h / h')``, so
    that bins overlap if ``h'`` does not divide ``h``.

    Args:
      x: ``[b, h, w, c]``, floating.
      size: ``(h', w')``.

    Returns:
      ``[b, h', w', c]`` in the dtype of ``x``, summed in float32 or wider.

    Raises:
      ValueError: ``x`` is not a map, or a size is below 1.

    >>> adaptive_mean(jnp.arange(3.0).reshape(1, 1, 3, 1), (1, 2)).ravel().tolist()
    [0.5, 1.5]
    """
    _check(x, size)
    return _apply(x, [_bins(*pair) for pair in zip(x.shape[1:3], size, strict=True)])


def _check(x: jax.Array, size: Sequence[int]) -> None:
    """Refuses what is not a map, and sizes below 1."""
    if x.ndim != 4:
        raise ValueError(f"x: found shape {x.shape}, expected [b, h, w, c]")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: found {tuple(size)}, expected (h, w), 1 or more each")


def _apply(x: jax.Array, weights: Sequence[np.ndarray]) -> jax.Array:
    """Multiplies both sides of the maps by matrices ``[new, old]``."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (jnp.asarray(w, dtype) for w in weights)
    # Accelerators multiply float32 with fewer digits by default.
    y = jnp.einsum(
        "ph,qw,bhwc->bpqc", rows, columns, x.astype(dtype), precision="highest"
    )
    return y.astype(x.dtype)


def _bilinear_weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    """Returns the matrix ``[new, old]`` of bilinear interpolation on one axis."""
    i = np.arange(new)
    if align_corners:
        position = i * ((old - 1) / max(new - 1, 1))
    else:
        position = np.maximum((i + 0.5) * (old / new) - 0.5, 0)
    # Rounding must not move the last position beyond the last pixel.
    low = np.minimum(position.astype(int), old - 1)
    share = position - low
    weights = np.zeros((new, old))
    weights[i, low] = 1 - share
    weights[i, np.minimum(low + 1, old - 1)] += share
    return weights


def _bins(old: int, new: int) -> np.ndarray:
    """Returns the matrix ``[new, old]`` of means over bins on one axis."""
    i, j = np.arange(new)[:, None], np.arange(old)
    inside = (j >= i * old // new) & (j < -(-(i + 1) * old // new))
    weights: np.ndarray = inside / inside.sum(1, keepdims=True)
    return weights
