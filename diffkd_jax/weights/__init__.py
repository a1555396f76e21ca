"""Files that hold weights: our exports, and those of PyTorch definitions."""
