"""Swin transformers (Liu et al. 2021)."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ...bounds import Part
from .layers import drop_path, pool_and_classify

normal = nn.initializers.truncated_normal(0.02)
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)
HEAD_CHANNELS = 32  # channels of each attention head
AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)


class Swin(nn.Module):
    """A Swin transformer for images of about 224x224 with any number of channels.

    The outputs are ``stem`` ``[b, h/4, w/4, c]``, the embedded patches; ``stage1`` to
    ``stage4`` with c, 2c, 4c and 8c channels at 1/4, 1/8, 1/16 and 1/32 of the size;
    ``features``, ``stage4`` after the last norm; ``pooled``; and ``logits``.

    Maps that are not a multiple of the window are padded with zeros. Windows of a map
    that is not larger than one window are not shifted. Sides of images must be
    divisible by 32.

    Attributes:
      blocks: numbers of blocks in the four stages.
      channels: number c of channels.
      num_classes: number of logits, 0 for no head.
      window: side of the windows, in tokens.
      drop_path: rate of stochastic depth. In training, the last block is dropped with
        this probability. It falls linearly to 0 for the first block.
      dtype: compute dtype, or None for float32. Norms and softmax stay in float32.

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
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> dict[str, Float[Array, "b *dims"]]:
        """Computes the outputs for images, see the class.

        Args:
          x: ``[b, h, w, c]``, normalised images.
          train: whether the network is trained.

        Raises:
          ValueError: a side that is not divisible by 32.
        """
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
        outputs, blocks_before = {"stem": x}, 0
        for i, count in enumerate(self.blocks, 1):
            if i > 1:
                x = PatchMerging(self.dtype, name=f"stage{i}_merging")(x)
            for j in range(count):
                x = SwinBlock(
                    self.window,
                    self.window // 2 if j % 2 else 0,
                    # The last block of the reference drops with the full rate.
                    self.drop_path * blocks_before / max(1, sum(self.blocks) - 1),
                    self.dtype,
                    name=f"stage{i}_block{j}",
                )(x, train=train)
                blocks_before += 1
            outputs[f"stage{i}"] = x
        x = LayerNorm(dtype=self.dtype, name="last_norm")(x)
        return outputs | pool_and_classify(x, self.num_classes)


class PatchMerging(nn.Module):
    """A layer that joins each 2x2 tokens into one with twice the channels.

    Attributes:
      dtype: compute dtype, or None for float32.

    >>> y, _ = jax.eval_shape(
    ...     PatchMerging().init_with_output, jax.random.key(0), jnp.ones((1, 4, 4, 8)))
    >>> y.shape
    (1, 2, 2, 16)
    """

    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Joins tokens.

        Args:
          x: ``[b, h, w, c]``, with even h and w.

        Returns:
          ``[b, h/2, w/2, 2 c]``.
        """
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 4, 2, 5)
        x = LayerNorm(dtype=self.dtype, name="norm")(
            x.reshape(b, h // 2, w // 2, 4 * c)
        )
        return nn.Dense(
            2 * c, use_bias=False, kernel_init=normal, dtype=self.dtype, name="dense"
        )(x)


class SwinBlock(nn.Module):
    """A block of attention in windows, then a two-layer network.

    Each follows a norm and has a shortcut.

    Attributes:
      window: side of the windows, in tokens.
      shift: distance by which the windows are moved on both axes, in tokens.
      drop_path: probability that a branch of an example is dropped in training.
      dtype: compute dtype, or None for float32.

    >>> x = jnp.ones((1, 14, 14, 32))
    >>> y, _ = jax.eval_shape(
    ...     lambda key, x: SwinBlock(7, 3).init_with_output(key, x, train=False),
    ...     jax.random.key(0), x)
    >>> y.shape
    (1, 14, 14, 32)
    """

    window: int
    shift: int
    drop_path: Part = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Applies the block to a map of tokens.

        Args:
          x: ``[b, h, w, c]``, with c a multiple of 32.
          train: whether the block is trained.
        """
        c = x.shape[-1]
        linear = partial(nn.Dense, kernel_init=normal, dtype=self.dtype)
        y = LayerNorm(dtype=self.dtype, name="norm0")(x)
        y = self._windowed_attention(y, linear)
        x = x + drop_path(y, self.drop_path, train=train)
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = nn.gelu(linear(4 * c, name="dense0")(y), approximate=False)
        y = linear(c, name="dense1")(y)
        return x + drop_path(y, self.drop_path, train=train)

    def _windowed_attention(
        self, x: Float[Array, "b h w c"], linear: Callable[..., nn.Dense]
    ) -> Float[Array, "b h w c"]:
        """Pads and rolls a map, attends within its windows, and undoes both."""
        _, h, w, _ = x.shape
        size = self.window
        shift = 0 if min(h, w) <= size else self.shift
        padded = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
        rolled = jnp.roll(padded, (-shift, -shift), (1, 2))
        mask = _region_mask(padded.shape[1:3], size, shift) if shift else None
        attended = self._attention(_windows(rolled, size), mask, linear)
        y = _unwindows(attended, rolled.shape, size)
        return jnp.roll(y, (shift, shift), (1, 2))[:, :h, :w]

    def _attention(
        self,
        x: Float[Array, "b windows tokens c"],
        mask: Bool[np.ndarray, "windows tokens tokens"] | None,
        linear: Callable[..., nn.Dense],
    ) -> Float[Array, "b windows tokens c"]:
        """Computes multi-head attention within each window."""
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


def _windows(x: AnyArray, size: int) -> AnyArray:
    """Reshapes ``[b, h, w, c]`` to ``[b, windows, size * size, c]``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, size * size, c)


def _unwindows(
    x: Float[Array, "b windows tokens c"], shape: tuple[int, ...], size: int
) -> Float[Array, "b h w c"]:
    """Reshapes windows back to a map of the given shape."""
    b, h, w, c = shape
    x = x.reshape(b, h // size, w // size, size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _relative_index(size: int) -> Int[np.ndarray, "tokens tokens"]:
    """Returns the row of the bias table for each pair of tokens in a window."""
    rows, columns = np.divmod(np.arange(size * size), size)
    row = rows[:, None] - rows[None] + size - 1
    column = columns[:, None] - columns[None] + size - 1
    return row * (2 * size - 1) + column


def _region_mask(
    shape: tuple[int, ...], size: int, shift: int
) -> Bool[np.ndarray, "windows tokens tokens"]:
    """Marks the pairs of tokens in a window that also lie in one part of the map.

    The roll brings tokens of opposite borders into one window. They must not attend to
    each other.
    """

    def region(length: int) -> np.ndarray:
        i = np.arange(length)
        return (i >= length - size).astype(int) + (i >= length - shift)

    regions = 3 * region(shape[0])[:, None] + region(shape[1])[None]
    tokens = np.asarray(_windows(regions[None, :, :, None], size))[0, :, :, 0]
    return tokens[:, :, None] == tokens[:, None, :]
