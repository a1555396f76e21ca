"""The commands of the trainer: train, compare, evaluate and predict, dry run."""
