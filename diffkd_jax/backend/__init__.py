"""Speed on compilers and CPUs; the method gives the same numbers without it.

Each file says what it costs, what it gains, and when it can be deleted. The figures and
the machine that they were measured on are in ``experiments/bench/README.md``.
"""
