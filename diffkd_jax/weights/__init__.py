"""Files that hold weights: our exports, and those of PyTorch definitions."""

from .weights import Weights, open_weights

__all__ = ["Weights", "open_weights"]
