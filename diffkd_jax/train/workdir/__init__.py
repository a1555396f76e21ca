"""The directory of a run: its identity, its checkpoints, and disk errors."""
