"""The section ``data`` of a config, for tests of what takes it."""

from ml_collections import ConfigDict

from diffkd_jax.config import base


def data_options(**fields):
    """The defaults of every field, but pictures stay as they are; of no fixed types."""
    as_they_are = {"augment": "none", "padding": 0, "flip": False}
    as_they_are |= {"mean": (0.5,), "std": (0.5,)}
    return ConfigDict(base().data.to_dict() | as_they_are | fields)
