"""Names of parameters in PyTorch's definitions of the networks."""
