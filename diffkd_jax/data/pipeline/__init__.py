"""Batches from splits: order, reading ahead, images that do not decode."""

from .batches import eval_batches, train_batches

__all__ = ["eval_batches", "train_batches"]
