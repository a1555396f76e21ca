"""Depthwise convolutions, on CPU as a sum of shifted products.

Costs: the code below, no forward-mode derivative, and a product to compile for each
element of a kernel.

Gains: forward, MobileNetV2 takes 50.2 ms and not 594.9 ms (8 images of 224x224), and
EfficientNet-Lite2 47.5 ms and not 761.9 ms (64 images of 64x64), by ``python
experiments/bench/teacher_forward.py --model=mobilenet_v2 --size=224 --batch=8``.

Delete when: XLA's grouped convolutions on CPU are as fast.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from .padding import Padding, count_padding

Pair: TypeAlias = tuple[int, int]
# Strides, padding before and after, and dilation, each for rows and columns.
Geometry: TypeAlias = tuple[Pair, tuple[Pair, Pair], Pair]


def depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ _"],
    strides: Pair,
    padding: Padding,
    **kwargs: Any,
) -> Float[Array, "b _ _ c"]:
    """Convolves each channel with its own kernel, as ``lax.conv_general_dilated`` does.

    On CPU it sums shifted products, which XLA fuses into one loop. It has no
    forward-mode derivative.

    Args:
      x: ``[b, h, w, c]``.
      kernel: ``[h, w, 1, c]``; kernels of another shape are left to XLA.
      strides: strides of rows and columns.
      padding: rows and columns added before and after, or "SAME" or "VALID".
      **kwargs: further arguments of ``lax.conv_general_dilated``.

    >>> x, kernel = jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2))
    >>> depthwise(x, kernel, (1, 1), "VALID", rhs_dilation=(1, 1),
    ...     dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2)
    Array([[[[9., 9.]]]], dtype=float32)
    """
    native: Callable[..., jax.Array] = partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, **kwargs
    )
    if kernel.shape[2:] != (1, x.shape[-1]):
        return native(x, kernel)
    dilation = tuple(kwargs["rhs_dilation"])
    padding = count_padding(x.shape, kernel.shape, strides, padding, dilation)
    geometry = (tuple(strides), tuple(map(tuple, padding)), dilation)

    # The platform is chosen inside, because the derivative of a choice traces slowly.
    @jax.custom_vjp
    def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
        shifted = partial(_sum_of_shifts, geometry=geometry)
        result: jax.Array = lax.platform_dependent(
            x, kernel, cpu=shifted, default=native
        )
        return result

    def forward(
        x: jax.Array, kernel: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return convolved(x, kernel), (x, kernel)

    def backward(
        inputs: tuple[jax.Array, jax.Array], gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        gradients: tuple[jax.Array, jax.Array] = lax.platform_dependent(
            *inputs,
            gradient,
            cpu=partial(_gradients, geometry=geometry),
            default=lambda x, kernel, gradient: jax.vjp(native, x, kernel)[1](gradient),
        )
        return gradients

    convolved.defvjp(forward, backward)
    return convolved(x, kernel)


# A compiled function is traced once for all layers of the same shape.
@partial(jax.jit, static_argnames="geometry", inline=True)
def _sum_of_shifts(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], *, geometry: Geometry
) -> Float[Array, "b _ _ c"]:
    """Sums the products of shifted maps and the elements of the kernel."""
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
def _gradients(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw 1 c"],
    gradient: Float[Array, "b _ _ c"],
    *,
    geometry: Geometry,
) -> tuple[Float[Array, "b h w c"], Float[Array, "kh kw 1 c"]]:
    """Returns the gradients of :func:`_sum_of_shifts` for the map and the kernel."""
    strides, padding, dilation = geometry
    padded, side = _padded(x, padding), kernel.shape[:2]
    sizes = _sizes(padded, side, strides, dilation)

    def element_gradient(element: jax.Array) -> jax.Array:
        row, column = element // side[1], element % side[1]
        starts = (0, dilation[0] * row, dilation[1] * column, 0)
        shifted = lax.dynamic_slice(padded, starts, sizes)
        strided = lax.slice(shifted, (0,) * 4, sizes, (1, *strides, 1))
        return jnp.sum(strided * gradient, (0, 1, 2))

    # A loop compiles one reduction instead of one for each element.
    kernel_gradient = lax.map(element_gradient, jnp.arange(side[0] * side[1]))
    x_gradient = _spread(gradient, kernel, x.shape[1:3], geometry)
    return x_gradient, kernel_gradient.reshape(kernel.shape)


def _spread(
    gradient: Float[Array, "b _ _ c"],
    kernel: Float[Array, "kh kw 1 c"],
    size: Sequence[int],
    geometry: Geometry,
) -> Float[Array, "b h w c"]:
    """Returns the gradient for the map; ``size`` is its height and width.

    The derivative that JAX makes of the sum has a padded product for each element of
    the kernel, and compiles to as many programs.
    """
    strides, padding, dilation = geometry
    side, axes = kernel.shape[:2], range(2)
    # A row or column of the padded map is a multiple of the stride plus a phase.
    counts = [-(-(padding[i][0] + size[i]) // strides[i]) for i in axes]
    reach = [dilation[i] * (side[i] - 1) // strides[i] for i in axes]
    margins = [(reach[i], counts[i] - gradient.shape[i + 1]) for i in axes]
    gradient = _padded(gradient, margins)
    phases: dict[Pair, jax.Array] = {}
    for element in itertools.product(*map(range, side)):
        offsets = [d * i for d, i in zip(dilation, element, strict=True)]
        steps = [offsets[i] // strides[i] for i in axes]
        rows, columns = (
            slice(reach[i] - steps[i], reach[i] - steps[i] + counts[i]) for i in axes
        )
        phase = (offsets[0] % strides[0], offsets[1] % strides[1])
        part = gradient[:, rows, columns] * kernel[*element, 0]
        phases[phase] = phases[phase] + part if phase in phases else part
    zero, total = jnp.zeros((), gradient.dtype), jnp.zeros((), gradient.dtype)
    for phase, part in phases.items():
        before = [phase[i] - padding[i][0] for i in axes]
        covered = [before[i] + strides[i] * (counts[i] - 1) + 1 for i in axes]
        between = [(before[i], size[i] - covered[i], strides[i] - 1) for i in axes]
        total = total + lax.pad(part, zero, ((0, 0, 0), *between, (0, 0, 0)))
    return total


def _padded(
    x: Float[Array, "b _ _ c"], padding: Sequence[Pair]
) -> Float[Array, "b _ _ c"]:
    """Pads rows and columns with zeros."""
    margins = ((0, 0, 0), *((*pair, 0) for pair in padding), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), margins)


def _sizes(
    x: jax.Array, side: Sequence[int], strides: Pair, dilation: Pair
) -> tuple[int, ...]:
    """Returns the shape that an element of the kernel reads, skipped cells included."""
    rows, columns = (
        (x.shape[i + 1] - dilation[i] * (side[i] - 1) - 1) // strides[i] * strides[i]
        + 1
        for i in range(2)
    )
    return (x.shape[0], rows, columns, x.shape[3])
