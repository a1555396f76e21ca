"""Convolutions of wide maps, their gradient laid out for the caches of a CPU."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .small_convolution import convolve as convolve
from .small_convolution import is_small

PART = 16  # examples
WIDE = 16  # rows of a map from which on parts pay


def convolve_in_parts(
    x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any
) -> jax.Array:
    """Convolves wide maps; the gradient of the kernel is summed over parts of a batch.

    On one CPU device XLA lays the maps out anew, examples last, to find the gradient of
    the kernel. On wide maps a pixel lies a power of two from that of the next picture,
    and what a whole batch reads together does not fit the caches: parts of 16 examples
    do (``experiments/bench``). No forward-mode derivatives there. A batch that lies on
    several devices is not cut.

    >>> x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    >>> options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    >>> convolve_in_parts(x, kernel, (1, 1), "SAME", **options).shape
    (2, 4, 4, 5)
    """
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    cut = alone and pays(x.shape, options.get("feature_group_count", 1))
    if not cut or is_small(x.shape, kernel.shape, options):
        return convolve(x, kernel, strides, padding, **options)
    plain: Callable = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    return in_parts(plain, x, kernel)


def pays(shape: tuple[int, ...], groups: int) -> bool:
    """Whether the gradient of a kernel is worth cutting.

    >>> pays((64, 32, 32, 8), 1), pays((64, 8, 8, 8), 1), pays((8, 56, 56, 8), 1)
    (True, False, False)
    """
    examples, rows = shape[:2]
    return groups == 1 and rows >= WIDE and examples > PART and examples % PART == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def in_parts(plain: Callable, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``plain(x, kernel)``; the gradient of the kernel is summed over parts.

    Args:
      plain: linear in both, each example for itself.
      x: ``[b, ...]``, ``b`` a multiple of 16.
      kernel: of any shape.
    """
    return plain(x, kernel)


def _forward(plain, x, kernel):
    return plain(x, kernel), (x, kernel)


def _backward(plain, kept, of_y):
    x, kernel = kept
    (of_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(of_y)
    # In half precision each sum of a part would be rounded.
    of_kernel = jnp.zeros(kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32))
    for first in range(0, len(x), PART):
        part = slice(first, first + PART)
        apply = functools.partial(plain, x[part])
        of_kernel += jax.linear_transpose(apply, kernel)(of_y[part])[0]
    return of_x, of_kernel.astype(kernel.dtype)


in_parts.defvjp(_forward, _backward)
