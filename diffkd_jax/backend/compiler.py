"""What the compiler needs to know about the platform, in one place."""

import functools
import logging

import jax

# Convolution fusion by YNNPACK costs 1.2-1.4x on CPU, its reductions must stay.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


# Less work on machine code: a fraction of the time to compile, slower to run.
ONCE_OPTIONS = CPU_OPTIONS | {"xla_backend_optimization_level": "0"}


@functools.cache
def compiler_options(*, once: bool = False) -> dict[str, str] | None:
    """Options for ``jax.jit(..., compiler_options=...)`` on this platform.

    The options are experimental: a compiler that does not know them is left alone.

    Args:
      once: the program runs once and does little, as initialisation does: it is
        compiled in a fraction of the time. Values may differ by a rounding.

    >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
    >>> int(step(1))
    2
    """
    if jax.default_backend() != "cpu":
        return None
    options = ONCE_OPTIONS if once else CPU_OPTIONS
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception as error:  # the type differs between jaxlib releases
        logging.getLogger(__name__).warning(
            "compiler options left out, computing or compiling may be slower: %s", error
        )
        return None
    return dict(options)


def scan_unroll(length: int) -> int:
    """Unroll factor of a scan of ``length`` steps that holds convolutions.

    On CPU the gradient of a convolution inside a loop is tens of times slower
    than outside, so the scan is unrolled in full; elsewhere it stays a loop.

    >>> scan_unroll(5) in (1, 5)
    True
    """
    # A scan of one step stays a loop by a factor of 1, and is none by any larger one.
    if length == 1:
        return 2
    return length if jax.default_backend() == "cpu" else 1
