"""The section ``data`` of a config, for tests of functions that take it."""

from diffkd_jax.config.data import DataConfig
from diffkd_jax.config.resolve import check_section


def data_options(**fields):
    """The defaults of every field, except that images stay as they are."""
    as_they_are = {"augment": "none", "padding": 0, "flip": False}
    as_they_are |= {"mean": (0.5,), "std": (0.5,)}
    return check_section(DataConfig, as_they_are | fields, "data.")
