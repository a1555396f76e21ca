"""Convolutions of wide maps, whose gradient fits the caches of a CPU.

On one CPU device, XLA rearranges the maps with the examples last to compute the
gradient of the kernel. On wide maps, the pixels that are read together then lie a power
of two apart and do not fit the caches. Those of 16 examples do.

Costs: the code below, and no forward-mode derivative on one CPU device.

Gains: WRN-40-1 takes 187 ms and not 209 ms (0.90), with ``PYTHONPATH=. python
experiments/bench/vs_pytorch.py``. Parts of 4, 8 and 32 examples take 1.24, 1.03 and
1.04 of the time of 16.

Delete when: the gradient of XLA itself is as fast there.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from .small_convolution import Padding, convolve, is_small

PART = 16  # examples of a part
WIDE = 16  # number of rows of a map from which parts are faster


def convolve_in_parts(
    x: Num[Array, "..."],
    kernel: Num[Array, "..."],
    strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Num[Array, "..."]:
    """Convolves maps, and sums the gradient of the kernel over parts of the batch.

    Only wide maps on one CPU device are treated in this way, see :func:`is_wide`; they
    have no forward-mode derivative. Other maps go to
    :func:`diffkd_jax.backend.small_convolution.convolve`.

    Args:
      x: ``[b, h, w, c]``, maps.
      kernel: ``[kh, kw, c, d]``.
      strides: strides of rows and columns.
      padding: rows and columns added before and after, or "SAME" or "VALID".
      **options: further arguments of ``jax.lax.conv_general_dilated``.

    >>> x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    >>> options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    >>> convolve_in_parts(x, kernel, (1, 1), "SAME", **options).shape
    (2, 4, 4, 5)
    """
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    split = one_cpu and is_wide(x.shape, options.get("feature_group_count", 1))
    if not split or is_small(x.shape, kernel.shape, options):
        return convolve(x, kernel, strides, padding, **options)
    plain: Callable[..., jax.Array] = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    return apply_in_parts(plain, x, kernel)


def is_wide(shape: tuple[int, ...], groups: int) -> bool:
    """Returns whether the gradient is faster if it is summed over parts of the batch.

    That is so for wide maps, if the batch consists of several whole parts.

    Args:
      shape: ``[b, h, w, c]``, shape of the maps.
      groups: number of groups of the convolution.

    >>> is_wide((64, 32, 32, 8), 1), is_wide((64, 8, 8, 8), 1)
    (True, False)
    """
    examples, rows = shape[:2]
    return groups == 1 and rows >= WIDE and examples > PART and examples % PART == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def apply_in_parts(
    plain: Callable[[jax.Array, jax.Array], jax.Array],
    x: Num[Array, "b *dims"],
    kernel: Num[Array, "..."],
) -> Num[Array, "b ..."]:
    """Returns ``plain(x, kernel)``, with the gradient of the kernel summed over parts.

    Args:
      plain: function that is linear in both arguments and treats each example alone.
      x: ``[b, ...]``, where ``b`` is a multiple of 16.
      kernel: array of any shape.

    >>> apply_in_parts(jnp.multiply, jnp.ones(16), jnp.ones(1)).shape
    (16,)
    """
    return plain(x, kernel)


def _forward(
    plain: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the result, and what its gradient needs."""
    return plain(x, kernel), (x, kernel)


def _backward(
    plain: Callable[[jax.Array, jax.Array], jax.Array],
    inputs: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients for the maps and the kernel."""
    x, kernel = inputs
    (x_gradient,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
    # Half precision would round the sum after each part.
    kernel_gradient = jnp.zeros(
        kernel.shape, jnp.promote_types(kernel.dtype, jnp.float32)
    )
    for first in range(0, len(x), PART):
        part = slice(first, first + PART)
        apply = functools.partial(plain, x[part])
        kernel_gradient += jax.linear_transpose(apply, kernel)(gradient[part])[0]
    return x_gradient, kernel_gradient.astype(kernel.dtype)


apply_in_parts.defvjp(_forward, _backward)
