"""Options of the compiler for each platform.

Costs: a tiny program is compiled in each process for each choice of options, to see
whether the compiler knows them and makes use of them. They are experimental. JAX cannot
keep a program that calls oneDNN, so it is compiled at each start.

Gains: jaxlib 0.12 holds oneDNN, with which a step of WRN-40-2 to 40-1 takes 0.89 of the
time. Convolutions of YNNPACK take 1.15 of the time of XLA's default on two cores and
1.0 on one (jax 0.10.2). Both by ``PYTHONPATH=. python
experiments/bench/vs_pytorch.py``. Programs that run once are compiled with fewer
optimisations; this is part of the time to the first step
(``experiments/bench/first_step.py``).

Delete when: the compiler chooses the faster convolutions by itself, and the gradient of
a convolution in a loop is as fast on CPU as outside.
"""

import functools
import logging

import jax

Options = dict[str, str | bool]
# On CPU, convolutions of YNNPACK are slower. Its reductions must stay.
CPU_OPTIONS: Options = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"
}
# The compiler refuses the value as a text.
ONEDNN_OPTIONS: Options = CPU_OPTIONS | {
    "xla_cpu_experimental_onednn_custom_call": True
}
# Fewer optimisations: programs compile in a fraction of the time and run slower.
ONCE_OPTIONS: Options = CPU_OPTIONS | {"xla_backend_optimization_level": "0"}
# Runs of a program from which oneDNN saves more time than one compilation takes. The
# steps of WRN-40-2 to 40-1, ResNet-34 to 18 and the quickstart save that after 1,100,
# 1,700 and 2,400 runs.
MANY_RUNS = 2000


def compiler_options(*, once: bool = False, many: bool = False) -> Options | None:
    """Returns the value of ``jax.jit(..., compiler_options=...)`` for this platform.

    Args:
      once: whether the program runs once and does little, such as initialisation. It is
        then compiled in a fraction of the time, and values may differ by rounding.
      many: whether the program runs thousands of times. On one CPU device its
        convolutions are then those of oneDNN if the compiler has it. Such a program is
        not kept in the compilation cache, and values may differ by rounding.

    Returns:
      The options, or None for the compiler's defaults: on other platforms than CPU, and
      with a compiler that does not know the options.

    >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
    >>> int(step(1))
    2
    """
    if jax.default_backend() != "cpu":
        return None
    if many and jax.device_count() == 1 and has_onednn():
        return dict(ONEDNN_OPTIONS)
    if not _is_known(once):
        return None
    return dict(ONCE_OPTIONS if once else CPU_OPTIONS)


@functools.cache
def _is_known(once: bool) -> bool:
    """Returns whether the compiler knows the options for CPU; logs a warning if not."""
    options = ONCE_OPTIONS if once else CPU_OPTIONS
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception as error:  # the type differs between releases of jaxlib
        logging.getLogger(__name__).warning(
            "compiler options are left out, so programs may compile or run slower: %s",
            error,
        )
        return False
    return True


@functools.cache
def has_onednn() -> bool:
    """Returns whether the compiler can make calls of oneDNN from convolutions on CPU.

    It compiles a small convolution and looks into the program. jaxlib 0.10 knows the
    option, but lacks oneDNN.
    """
    shapes = (
        jax.ShapeDtypeStruct((1, 8, 8, 8), "float32"),
        jax.ShapeDtypeStruct((3, 3, 8, 8), "float32"),
    )

    def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )

    try:
        jitted = jax.jit(convolve, compiler_options=ONEDNN_OPTIONS)
        text = jitted.lower(*shapes).compile().as_text() or ""
    except Exception:  # the option is not known; the type differs between releases
        return False
    return "__onednn$convolution" in text


def scan_unroll(length: int) -> int:
    """Returns the unroll factor for a scan whose steps hold convolutions.

    On CPU the gradient of a convolution is many times slower inside a loop than
    outside, so the scan is unrolled completely. On other platforms it stays a loop.

    Args:
      length: number of steps of the scan.

    >>> scan_unroll(5) in (1, 5)
    True
    """
    # A scan of one step stays a loop with a factor of 1, but not with a larger one.
    if length == 1:
        return 2
    return length if jax.default_backend() == "cpu" else 1
