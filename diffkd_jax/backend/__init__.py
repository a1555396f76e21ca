"""What compilers and CPUs need; the method gives the same numbers without it."""
