"""The folder of the golden files, and the distance of values from them."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()
