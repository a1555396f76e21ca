"""The loop around the method: set-up, sharding, checkpoints, metrics, report."""
