"""Loaders of data sets, one file for each format on disk."""

from .registry import DATASETS, load

__all__ = ["DATASETS", "load"]
