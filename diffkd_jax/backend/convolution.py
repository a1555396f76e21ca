"""Convolutions in the form that a CPU runs fastest; on other devices they are XLA's.

Costs: the choice below, made while a program is traced. It does not know how the
program will be compiled. Where the compiler has oneDNN, a program that does without it
takes 1.05 of the time that it would take with the forms for Eigen (steps of WRN-40-2 to
40-1 and ResNet-34 to 18, jax 0.12.0).

Gains: those of the three forms, in ``small_convolution.py`` and ``kernel_gradient.py``.
With oneDNN, 1x1 convolutions are products: those of block-wrn take 55 ms and not 67 ms
(jax 0.12.0, two cores). Without oneDNN they stay, for products take 0.97 to 1.09 of
the time.

Delete when: none of the three forms is faster.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Num

from .compiler import has_onednn
from .kernel_gradient import convolve_in_parts
from .padding import Padding, count_padding
from .small_convolution import is_small, multiply_patches

NHWC = ("NHWC", "HWIO", "NHWC")
SUPPORTED = {"dimension_numbers", "rhs_dilation", "precision"}


def convolve(
    x: Num[Array, "..."],
    kernel: Num[Array, "..."],
    strides: Sequence[int],
    padding: Padding,
    **options: Any,
) -> Num[Array, "..."]:
    """Convolves as ``lax.conv_general_dilated``, in the fastest form.

    Pass it to ``flax.linen.Conv`` as ``conv_general_dilated``.

    Args:
      x: ``[b, h, w, c]``, maps.
      kernel: ``[kh, kw, c, d]``.
      strides: strides of rows and columns.
      padding: rows and columns added before and after, or "SAME" or "VALID". With
        negative numbers, which crop the maps, the convolution is XLA's.
      **options: further arguments of ``jax.lax.conv_general_dilated``. With others than
        precision and dilation of the kernel, or with other axes, the convolution is
        XLA's.

    >>> x, kernel = jax.numpy.ones((1, 2, 2, 3)), jax.numpy.ones((3, 3, 3, 5))
    >>> options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    >>> convolve(x, kernel, (1, 1), "SAME", **options)[0, 0, 0, 0].item()
    12.0
    """
    native: Callable[..., jax.Array] = partial(
        jax.lax.conv_general_dilated, window_strides=strides, **options
    )
    if jax.default_backend() != "cpu" or not is_usual(x.shape, kernel.shape, options):
        return native(x, kernel, padding=padding)
    dilation = options.get("rhs_dilation") or (1, 1)
    padding = count_padding(x.shape, kernel.shape, strides, padding, dilation)
    if any(side < 0 for pair in padding for side in pair):  # the forms pad, not crop
        return native(x, kernel, padding=padding)
    precision = options.get("precision")
    if is_small(x.shape, kernel.shape):
        return multiply_patches(x, kernel, strides, padding, dilation, precision)
    if jax.device_count() > 1:
        return native(x, kernel, padding=padding)
    with_onednn = has_onednn()
    if with_onednn and kernel.shape[:2] == (1, 1) and not any(map(any, padding)):
        x = x[:, :: strides[0], :: strides[1]]
        return jax.lax.dot_general(
            x, kernel[0, 0], (((3,), (0,)), ((), ())), precision=precision
        )
    return convolve_in_parts(x, kernel, strides, padding, crop=with_onednn, **options)


def is_usual(
    shape: Sequence[int], kernel: Sequence[int], options: Mapping[str, Any]
) -> bool:
    """Returns whether a convolution is one of two axes, without unusual options.

    Args:
      shape: shape of the maps, ``[b, h, w, c]`` if it is usual.
      kernel: shape of the kernel, ``[kh, kw, c, d]`` if it is usual.
      options: options of :func:`convolve`.

    >>> is_usual((8, 2, 2, 3), (3, 3, 3, 5), {"dimension_numbers": NHWC})
    True
    >>> is_usual((8, 2, 3), (3, 3, 5), {"dimension_numbers": ("NHC", "HIO", "NHC")})
    False
    """
    if len(shape) != 4:
        return False
    usual = {"feature_group_count": 1, "lhs_dilation": (1, 1)}
    other = {k: v for k, v in options.items() if k not in SUPPORTED and v is not None}
    if any(usual.get(k) != v for k, v in other.items()):
        return False
    numbers = options.get("dimension_numbers")
    axes, last = (
        jax.lax.conv_dimension_numbers(shape, kernel, n) for n in (numbers, NHWC)
    )
    return axes == last
