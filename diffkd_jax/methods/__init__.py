"""Methods of distillation, each of which is a set of taps and weights of losses.

A method is a function that returns a :class:`Method`. Its keyword arguments are its
options in a config. Name a method of your own by import path,
``--config.method=package.module:name``.
"""

import functools
from collections.abc import Callable

from . import pyramid
from .method import Method
from .single import (
    cwd,
    diffkd,
    diffkd_features,
    diffkd_logits,
    dist,
    dkd,
    kd,
    mse,
    none,
)

__all__ = ["METHODS", "Method"]

METHODS: dict[str, Callable[..., Method]] = {
    "none": none,
    "kd": kd,
    "dkd": dkd,
    "dist": dist,
    "mse": mse,
    "cwd": cwd,
    "diffkd_features": diffkd_features,
    "diffkd_logits": diffkd_logits,
    "diffkd_map": functools.partial(diffkd_logits, distance="dist"),
    "diffkd": diffkd,
    "diffkd_dist": functools.partial(diffkd, logits_distance="dist"),
    "diffkd_fpn": pyramid.diffkd_fpn,
    "mse_fpn": pyramid.mse_fpn,
    "fgd": pyramid.fgd,
}
