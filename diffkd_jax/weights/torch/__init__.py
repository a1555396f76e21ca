"""Weights of PyTorch definitions, read without PyTorch and without running code."""
