"""The tests' small run as a config file, for the command line."""

from tests.helpers.configs import tiny_config as get_config

__all__ = ["get_config"]
