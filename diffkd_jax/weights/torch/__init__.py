"""Files that PyTorch wrote, read without PyTorch and without running code."""
