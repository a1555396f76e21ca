"""Classifiers, which also serve as backbones of networks for dense tasks."""
