"""Augmentation of training examples, and what evaluation does in its place."""
