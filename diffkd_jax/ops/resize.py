"""Maps in other sizes, by the rules of ``torch.nn.functional``.

``jax.image.resize`` has other rules: it knows no ``align_corners``, blurs where it
shrinks, and takes the nearest at the centres of pixels.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def bilinear(x: jax.Array, size: Sequence[int], *, align_corners: bool) -> jax.Array:
    """Maps resized bilinearly, without blurring where they shrink.

    Args:
      x: ``[b, h, w, c]``, floating.
      size: ``(h', w')``.
      align_corners: the centres of the corner pixels stay where they are, else the
        borders do; as ``interpolate(mode="bilinear")`` has it.

    Returns:
      ``[b, h', w', c]`` of the same dtype, summed in float32 or better.

    Raises:
      ValueError: not a map, or no such size.

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> bilinear(x, (1, 5), align_corners=True).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    _check(x, size)
    pairs = zip(x.shape[1:3], size, strict=True)
    return _apply(x, [_bilinear_weights(n, m, align_corners) for n, m in pairs])


def nearest(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Maps resized by taking pixel ``floor(i h / h')``, as ``interpolate`` does.

    Args:
      x: ``[b, h, w, c]``, any dtype.
      size: ``(h', w')``.

    Returns:
      ``[b, h', w', c]``.

    Raises:
      ValueError: not a map, or no such size.

    >>> nearest(jnp.arange(3).reshape(1, 1, 3, 1), (1, 5)).ravel().tolist()
    [0, 0, 1, 1, 2]
    """
    _check(x, size)
    for axis, wanted in enumerate(size, 1):
        n = x.shape[axis]
        if n != wanted:
            x = jnp.take(x, np.arange(wanted) * n // wanted, axis)
    return x


def adaptive_mean(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Means over ``h'`` times ``w'`` bins, which overlap where they do not divide.

    Args:
      x: ``[b, h, w, c]``, floating.
      size: ``(h', w')``; bin i begins at ``floor(i h / h')`` and ends before
        ``ceil((i + 1) h / h')``, as in ``adaptive_avg_pool2d``.

    Returns:
      ``[b, h', w', c]`` of the same dtype, summed in float32 or better.

    Raises:
      ValueError: not a map, or no such size.

    >>> adaptive_mean(jnp.arange(3.0).reshape(1, 1, 3, 1), (1, 2)).ravel().tolist()
    [0.5, 1.5]
    """
    _check(x, size)
    return _apply(x, [_bins(*pair) for pair in zip(x.shape[1:3], size, strict=True)])


def _check(x: jax.Array, size: Sequence[int]) -> None:
    if x.ndim != 4:
        raise ValueError(f"x: found shape {x.shape}, expected [b, h, w, c]")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: found {tuple(size)}, expected (h, w), 1 or more each")


def _apply(x: jax.Array, weights: Sequence[np.ndarray]) -> jax.Array:
    """Multiplies both sides of the maps by matrices ``[new, old]``."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    rows, columns = (jnp.asarray(w, dtype) for w in weights)
    # Accelerators multiply float32 with fewer digits if they are not told.
    y = jnp.einsum(
        "ph,qw,bhwc->bpqc", rows, columns, x.astype(dtype), precision="highest"
    )
    return y.astype(x.dtype)


def _bilinear_weights(old: int, new: int, align_corners: bool) -> np.ndarray:
    i = np.arange(new)
    if align_corners:
        place = i * ((old - 1) / max(new - 1, 1))
    else:
        place = np.maximum((i + 0.5) * (old / new) - 0.5, 0)
    # Rounding must not carry the last place beyond the last pixel.
    low = np.minimum(place.astype(int), old - 1)
    share = place - low
    weights = np.zeros((new, old))
    weights[i, low] = 1 - share
    weights[i, np.minimum(low + 1, old - 1)] += share
    return weights


def _bins(old: int, new: int) -> np.ndarray:
    i, j = np.arange(new)[:, None], np.arange(old)
    inside = (j >= i * old // new) & (j < -(-(i + 1) * old // new))
    return inside / inside.sum(1, keepdims=True)
