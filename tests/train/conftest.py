"""Fixtures of runs."""

from tests.helpers.runs import finished, quickly_drawn, resnet, steps_of_equal_time

__all__ = ["finished", "quickly_drawn", "resnet", "steps_of_equal_time"]
