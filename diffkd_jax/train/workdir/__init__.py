"""The directory of a run: its identity, checkpoints, and errors of the disk."""
