"""Fixtures of runs."""

from tests.helpers.runs import finished, quickly_drawn, resnet

__all__ = ["finished", "quickly_drawn", "resnet"]
