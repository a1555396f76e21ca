"""Convolutions whose gradient for the kernel is computed fast on one CPU device.

On one CPU device, XLA rearranges the maps with the examples last to compute the
gradient for the kernel. On wide maps, the pixels that are read together then lie a
power of two apart and do not fit the caches. Those of 16 examples do.

oneDNN is faster than XLA's own convolutions (Eigen) for results and for gradients for
the maps, but slower for the gradient for the kernel. It leaves convolutions with a
negative padding to Eigen. So the maps are padded by one more row, which the convolution
crops.

Costs: the code below, and a copy of the maps for the additional row.

Gains: by ``PYTHONPATH=. python experiments/bench/vs_pytorch.py``, two cores. Without
oneDNN, a step of WRN-40-2 to 40-1 takes 1.07 of the time if the maps are not in parts
(jax 0.12.0). With oneDNN it takes 0.89 of the time without it, and 0.97 if not in
parts. A step of ResNet-34 to 18 takes 1.08 of the time if oneDNN computes the gradient
for the kernel too.

Delete when: XLA's gradient for the kernel is as fast on wide maps, and that of oneDNN
is as fast as Eigen's.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Num

PART = 16  # examples of a part
WIDE = 16  # number of rows of a map from which parts are faster
Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def convolve_in_parts(
    x: Num[Array, "b h w c"],
    kernel: Num[Array, "kh kw c d"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    crop: bool,
    **options: Any,
) -> Num[Array, "b _ _ d"]:
    """Convolves maps, and sums the gradient for the kernel over parts of the batch.

    The gradient is summed over parts only if :func:`is_wide` holds.

    Args:
      x: ``[b, h, w, c]``, maps.
      kernel: ``[kh, kw, c, d]``.
      strides: strides of rows and columns.
      padding: rows and columns added before and after.
      crop: whether to keep the gradient for the kernel away from oneDNN.
      **options: further arguments of ``jax.lax.conv_general_dilated``.

    >>> x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))
    >>> same, numbers = [(1, 1), (1, 1)], ("NHWC", "HWIO", "NHWC")
    >>> y = convolve_in_parts(
    ...     x, kernel, (1, 1), same, crop=True, dimension_numbers=numbers)
    >>> y.shape
    (2, 4, 4, 5)
    """
    convolve: Callable[..., jax.Array] = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, **options
    )
    plain = functools.partial(convolve, padding=padding)
    if not crop and not is_wide(x.shape):
        return plain(x, kernel)
    (top, bottom), columns = padding

    def cropped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (top + 1, 0), (0, 0), (0, 0)))
        return convolve(x, kernel, padding=[(-1, bottom), columns])

    differentiated = cropped if crop else plain
    if is_wide(x.shape):
        differentiated = functools.partial(_apply_in_parts, differentiated)
    return _differ(plain, differentiated)(x, kernel)


def is_wide(shape: Sequence[int]) -> bool:
    """Returns whether the gradient is faster if it is summed over parts of the batch.

    That is so for wide maps, if the batch consists of several whole parts. A batch of
    symbolic size, as in ``jax.export``, is never summed over parts.

    Args:
      shape: ``[b, h, w, c]``, shape of the maps.

    >>> is_wide((64, 32, 32, 8)), is_wide((64, 8, 8, 8))
    (True, False)
    """
    examples, rows = shape[:2]
    if not all(isinstance(size, int) for size in (examples, rows)):
        return False
    return rows >= WIDE and examples > PART and examples % PART == 0


def _apply_in_parts(
    convolve: Convolution, x: jax.Array, kernel: jax.Array
) -> jax.Array:
    """Convolves the parts of a batch one after the other."""
    # Half precision would round the sum of the gradients after each part.
    kernel = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    parts = (x[i : i + PART] for i in range(0, len(x), PART))
    return jnp.concatenate([convolve(p, kernel.astype(x.dtype)) for p in parts])


def _differ(plain: Convolution, for_kernel: Convolution) -> Convolution:
    """Returns ``plain``, with another derivative by the kernel.

    Args:
      plain: convolution of maps by a kernel.
      for_kernel: the same function in another form, to be differentiated by the kernel.
    """

    @jax.custom_jvp
    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return plain(x, kernel)

    def derivative(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
        terms = []
        if not isinstance(x_tangent, SymbolicZero):
            terms.append(plain(x_tangent, kernel))
        if not isinstance(kernel_tangent, SymbolicZero):
            terms.append(for_kernel(x, kernel_tangent))
        return plain(x, kernel), functools.reduce(jnp.add, terms)

    convolved.defjvp(derivative, symbolic_zeros=True)
    return convolved
