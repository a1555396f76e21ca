"""Swin transformers (Liu et al. 2021)."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ...bounds import Part
from .layers import drop_path, pool_and_classify

normal = nn.initializers.truncated_normal(0.02)
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)
HEAD_CHANNELS = 32


class Swin(nn.Module):
    """Swin transformer for images of about 224x224 and any number of channels.

    Outputs: ``stem`` ``[b, h/4, w/4, c]`` (embedded patches), ``stage1`` to ``stage4``
    with c, 2c, 4c, 8c channels at 1/4, 1/8, 1/16, 1/32 of the size, ``features``
    (``stage4`` after the last norm), ``pooled``, ``logits``.

    Maps that windows do not divide are padded with zeros; a map no larger than one
    window is not shifted. Sides must be divisible by 32.

    Attributes:
      blocks: number of blocks in each of the four stages.
      channels: c.
      num_classes: number of logits.
      window: side of the windows, in tokens.
      drop_path: probability of dropping the last block, falling linearly to the first.
      dtype: compute dtype, or None for float32; norms and softmax stay in float32.

    Raises:
      ValueError: a side that is not divisible by 32.

    >>> out, _ = jax.eval_shape(Swin((2, 2, 6, 2), 96, 10).init_with_output,
    ...     jax.random.key(0), jnp.ones((1, 64, 64, 3)))
    >>> out["features"].shape
    (1, 2, 2, 768)
    """

    blocks: tuple[int, int, int, int]
    channels: int
    num_classes: int
    window: int = 7
    drop_path: Part = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> dict[str, jax.Array]:
        if x.shape[1] % 32 or x.shape[2] % 32:
            raise ValueError(
                f"Swin: found images {x.shape}, expected sides divisible by 32"
            )
        patch: dict[str, Any] = {
            "kernel_size": (4, 4),
            "strides": (4, 4),
            "padding": "VALID",
        }
        x = nn.Conv(self.channels, **patch, dtype=self.dtype, name="patch_conv")(x)
        x = LayerNorm(dtype=self.dtype, name="patch_norm")(x)
        outputs, done = {"stem": x}, 0
        for i, count in enumerate(self.blocks, 1):
            if i > 1:
                x = PatchMerging(self.dtype, name=f"stage{i}_merging")(x)
            for j in range(count):
                x = SwinBlock(
                    self.window,
                    self.window // 2 if j % 2 else 0,
                    # As in the reference, the last block drops with the full rate.
                    self.drop_path * done / max(1, sum(self.blocks) - 1),
                    self.dtype,
                    name=f"stage{i}_block{j}",
                )(x, train=train)
                done += 1
            outputs[f"stage{i}"] = x
        x = LayerNorm(dtype=self.dtype, name="last_norm")(x)
        return outputs | {"features": x} | pool_and_classify(x, self.num_classes)


class PatchMerging(nn.Module):
    """Joins each 2x2 of tokens into one of twice the channels."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        x = LayerNorm(dtype=self.dtype, name="norm")(
            x.reshape(b, h // 2, w // 2, 4 * c)
        )
        return nn.Dense(
            2 * c, use_bias=False, kernel_init=normal, dtype=self.dtype, name="dense"
        )(x)


class SwinBlock(nn.Module):
    """Windowed attention and a two-layer network, each after a norm, with shortcuts.

    Attributes:
      window: side of the windows, in tokens.
      shift: by how many tokens the windows are moved.
      drop_path: probability of dropping a branch of an example in training.
      dtype: compute dtype, or None for float32.
    """

    window: int
    shift: int
    drop_path: Part = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        c = x.shape[-1]
        linear = partial(nn.Dense, kernel_init=normal, dtype=self.dtype)
        y = LayerNorm(dtype=self.dtype, name="norm0")(x)
        y = self._windowed_attention(y, linear)
        x = x + drop_path(y, self.drop_path, train=train)
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = nn.gelu(linear(4 * c, name="dense0")(y), approximate=False)
        y = linear(c, name="dense1")(y)
        return x + drop_path(y, self.drop_path, train=train)

    def _windowed_attention(self, x: jax.Array, linear: Any) -> jax.Array:
        _, h, w, _ = x.shape
        size = self.window
        shift = 0 if min(h, w) <= size else self.shift
        padded = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
        rolled = jnp.roll(padded, (-shift, -shift), (1, 2))
        mask = _region_mask(padded.shape[1:3], size, shift) if shift else None
        attended = self._attention(_windows(rolled, size), mask, linear)
        y = _unwindows(attended, rolled.shape, size)
        return jnp.roll(y, (shift, shift), (1, 2))[:, :h, :w]

    def _attention(self, x: jax.Array, mask, linear: Any) -> jax.Array:
        """Multi-head attention within windows, ``x`` ``[b, windows, tokens, c]``."""
        b, windows, tokens, c = x.shape
        heads = c // HEAD_CHANNELS
        qkv = linear(3 * c, name="qkv")(x)
        qkv = qkv.reshape(b, windows, tokens, 3, heads, HEAD_CHANNELS)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        scores = jnp.einsum("bwqhc,bwkhc->bwhqk", q * HEAD_CHANNELS**-0.5, k)
        table = self.param(
            "relative_position_bias_table",
            normal,
            ((2 * self.window - 1) ** 2, heads),
            jnp.float32,
        )
        bias = table[_relative_index(self.window)].transpose(2, 0, 1)
        scores = scores.astype(jnp.float32) + bias
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, scores - 100.0)
        weights = nn.softmax(scores, -1).astype(v.dtype)
        mixed = jnp.einsum("bwhqk,bwkhc->bwqhc", weights, v)
        return linear(c, name="projection")(mixed.reshape(x.shape))


def _windows(x: jax.Array, size: int) -> jax.Array:
    """``[b, h, w, c]`` to ``[b, windows, size * size, c]``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, size * size, c)


def _unwindows(x: jax.Array, shape: tuple[int, ...], size: int) -> jax.Array:
    b, h, w, c = shape
    x = x.reshape(b, h // size, w // size, size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _relative_index(size: int) -> np.ndarray:
    """Row of the bias table for each pair of tokens, ``[size^2, size^2]``."""
    rows, columns = np.divmod(np.arange(size * size), size)
    row = rows[:, None] - rows[None] + size - 1
    column = columns[:, None] - columns[None] + size - 1
    return row * (2 * size - 1) + column


def _region_mask(shape: tuple[int, ...], size: int, shift: int) -> np.ndarray:
    """True where two tokens of a shifted window were neighbours before the roll."""

    def region(length: int) -> np.ndarray:
        i = np.arange(length)
        return (i >= length - size).astype(int) + (i >= length - shift)

    regions = 3 * region(shape[0])[:, None] + region(shape[1])[None]
    tokens = np.asarray(_windows(regions[None, :, :, None], size))[0, :, :, 0]
    return tokens[:, :, None] == tokens[:, None, :]
