"""Options of the compiler for each platform.

Costs: one tiny program is compiled in each process, to see whether the compiler knows
the options, which are experimental.

Gains: convolutions stay with XLA's default. Those of YNNPACK took 1.15 of the time on
two cores and 1.0 on one, with ``PYTHONPATH=. python experiments/bench/vs_pytorch.py``.
Programs that run once are compiled with fewer optimisations; this is part of the time
to the first step (``experiments/bench/first_step.py``).

Delete when: the compiler chooses the faster convolutions by itself, and the gradient of
a convolution in a loop is as fast on CPU as outside.
"""

import functools
import logging

import jax

# On CPU, convolutions of YNNPACK are slower. Its reductions must stay.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


# Fewer optimisations: programs compile in a fraction of the time and run slower.
ONCE_OPTIONS = CPU_OPTIONS | {"xla_backend_optimization_level": "0"}


@functools.cache
def compiler_options(*, once: bool = False) -> dict[str, str] | None:
    """Returns the value of ``jax.jit(..., compiler_options=...)`` for this platform.

    Args:
      once: whether the program runs once and does little, such as initialisation. It is
        then compiled in a fraction of the time, and values may differ by rounding.

    Returns:
      The options, or None for the compiler's defaults: on other platforms than CPU, and
      with a compiler that does not know the options.

    >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
    >>> int(step(1))
    2
    """
    if jax.default_backend() != "cpu":
        return None
    options = ONCE_OPTIONS if once else CPU_OPTIONS
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except Exception as error:  # the type differs between releases of jaxlib
        logging.getLogger(__name__).warning(
            "compiler options are left out, so programs may compile or run slower: %s",
            error,
        )
        return None
    return dict(options)


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
