"""Depthwise convolution, on CPU as a sum of shifted products."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Pair = tuple[int, int]


def depthwise(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Any, **kwargs: Any
) -> jax.Array:
    """``lax.conv_general_dilated`` where each channel has a kernel of its own.

    XLA's grouped convolutions are tens of times slower on CPU than a sum of shifted
    products, which it fuses into one loop; figures are in ``experiments/bench``. Has no
    forward-mode derivative.

    Args:
      x: ``[b, h, w, c]``.
      kernel: ``[h, w, 1, c]``; of another shape it is left to XLA.
      strides: of the windows.
      padding: rows and columns before and after, or "SAME" or "VALID".
      **kwargs: of ``lax.conv_general_dilated``.

    >>> x, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2))
    >>> depthwise(x, kernel, (1, 1), "VALID", rhs_dilation=(1, 1),
    ...     dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
    Array([[[[9., 9.]]]], dtype=float32)
    """
    native: Callable = partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **kwargs
    )
    if kernel.shape[2:] != (1, x.shape[-1]):
        return native(x, kernel)
    side, dilation = kernel.shape[:2], tuple(kwargs["rhs_dilation"])
    if isinstance(padding, str):
        reach = [d * (n - 1) + 1 for d, n in zip(dilation, side, strict=True)]
        padding = lax.padtype_to_pads(x.shape[1:3], reach, strides, padding)
    geometry = (tuple(strides), tuple(map(tuple, padding)), dilation)

    # The platform is chosen inside, for the derivative of a choice takes long to trace.
    @jax.custom_vjp
    def convolved(x, kernel):
        shifted = partial(_sum_of_shifts, geometry=geometry)
        return lax.platform_dependent(x, kernel, cpu=shifted, default=native)

    def forward(x, kernel):
        return convolved(x, kernel), (x, kernel)

    def backward(kept, gradient):
        return lax.platform_dependent(
            *kept,
            gradient,
            cpu=partial(_gradients, geometry=geometry),
            default=lambda x, kernel, gradient: jax.vjp(native, x, kernel)[1](gradient),
        )

    convolved.defvjp(forward, backward)
    return convolved(x, kernel)


# Compiled functions are traced once for all layers of a shape.
@partial(jax.jit, static_argnames="geometry", inline=True)
def _sum_of_shifts(x, kernel, *, geometry) -> jax.Array:
    strides, padding, dilation = geometry
    x, side = _padded(x, padding), kernel.shape[:2]
    sizes = _sizes(x, side, strides, dilation)
    total = jnp.zeros((), x.dtype)
    for row, column in itertools.product(*map(range, side)):
        starts = (0, dilation[0] * row, dilation[1] * column, 0)
        stops = [i + n for i, n in zip(starts, sizes, strict=True)]
        shifted = lax.slice(x, starts, stops, (1, *strides, 1))
        total = total + shifted * kernel[row, column, 0]
    return total


@partial(jax.jit, static_argnames="geometry", inline=True)
def _gradients(x, kernel, gradient, *, geometry) -> tuple[jax.Array, jax.Array]:
    """Of :func:`_sum_of_shifts`, by its arguments."""
    strides, padding, dilation = geometry
    padded, side = _padded(x, padding), kernel.shape[:2]
    sizes = _sizes(padded, side, strides, dilation)

    def of_tap(tap):
        row, column = tap // side[1], tap % side[1]
        starts = (0, dilation[0] * row, dilation[1] * column, 0)
        shifted = lax.dynamic_slice(padded, starts, sizes)
        strided = lax.slice(shifted, (0,) * 4, sizes, (1, *strides, 1))
        return jnp.sum(strided * gradient, (0, 1, 2))

    # A loop, so that there is one reduction to compile and not one of each tap.
    of_kernel = lax.map(of_tap, jnp.arange(side[0] * side[1]))
    of_x = _spread(gradient, kernel, x.shape[1:3], geometry)
    return of_x, of_kernel.reshape(kernel.shape)


def _spread(gradient, kernel, size, geometry) -> jax.Array:
    """The gradient by the input, ``size`` its height and width.

    What autodiff makes of the sum, a padded product of each tap, is as many programs.
    """
    strides, padding, dilation = geometry
    side, axes = kernel.shape[:2], range(2)
    # Rows and columns of the padded input are multiples of the stride plus a phase.
    counts = [-(-(padding[i][0] + size[i]) // strides[i]) for i in axes]
    reach = [dilation[i] * (side[i] - 1) // strides[i] for i in axes]
    margins = [(reach[i], counts[i] - gradient.shape[i + 1]) for i in axes]
    gradient = _padded(gradient, margins)
    phases: dict[Pair, jax.Array] = {}
    for tap in itertools.product(*map(range, side)):
        offsets = [d * i for d, i in zip(dilation, tap, strict=True)]
        steps = [offsets[i] // strides[i] for i in axes]
        rows, columns = (
            slice(reach[i] - steps[i], reach[i] - steps[i] + counts[i]) for i in axes
        )
        phase = (offsets[0] % strides[0], offsets[1] % strides[1])
        part = gradient[:, rows, columns] * kernel[*tap, 0]
        phases[phase] = phases[phase] + part if phase in phases else part
    zero, total = jnp.zeros((), gradient.dtype), jnp.zeros((), gradient.dtype)
    for phase, part in phases.items():
        before = [phase[i] - padding[i][0] for i in axes]
        reached = [before[i] + strides[i] * (counts[i] - 1) + 1 for i in axes]
        between = [(before[i], size[i] - reached[i], strides[i] - 1) for i in axes]
        total = total + lax.pad(part, zero, ((0, 0, 0), *between, (0, 0, 0)))
    return total


def _padded(x: jax.Array, padding: Sequence[Pair]) -> jax.Array:
    margins = ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), margins)


def _sizes(
    x: jax.Array, side: Sequence[int], strides: Pair, dilation: Pair
) -> tuple[int, ...]:
    """Of the part of a padded map that a tap of the kernel reads, gaps included."""
    rows, columns = (
        (x.shape[i + 1] - dilation[i] * (side[i] - 1) - 1) // strides[i] * strides[i]
        + 1
        for i in range(2)
    )
    return (x.shape[0], rows, columns, x.shape[3])
