"""Methods of distillation, each of which is a set of taps and weights of losses.

A method is a function that returns a :class:`Method`. Its keyword arguments are its
options in a config. Name a method of your own by import path,
``--config.method=package.module:name``.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..named import call, find
from . import pyramid
from .controls import CONTROLS
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

__all__ = ["CONTROLS", "METHODS", "Method", "build_method"]

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
    **CONTROLS,
}


def build_method(
    name: str,
    options: Mapping[str, Mapping[str, Any]],
    path_options: Mapping[str, Any] | None = None,
) -> Method:
    """Builds a method, and the method that it controls first if it is a control.

    Args:
      name: a key of :data:`METHODS`, or an import path.
      options: arguments by name of the method; methods without an entry have their
        defaults. A control changes the method that its argument ``of`` names, which
        has the options of its own entry.
      path_options: arguments of a method that is named by import path.

    Raises:
      ValueError: there is no such method, or it does not take the options.

    >>> build_method("projection", {"diffkd": {"latent_channels": 8}}).taps[
    ...     "features"].block.latent_channels
    8
    """
    make = find(name, METHODS, "method")
    arguments = {**options.get(name, {}), **(path_options or {})}
    field = f"methods.{name}" if name in METHODS else "method_options"
    controlled = []
    if name in CONTROLS:
        of = arguments.get("of", "diffkd")
        if of in CONTROLS:
            raise ValueError(
                f"{field}.of: found {of!r}, a control itself, expected another method"
            )
        find(of, METHODS, f"{field}.of")
        controlled = [build_method(of, options)]
    method = call(make, arguments, field, *controlled)
    if not isinstance(method, Method):
        raise ValueError(
            f"method: found {name!r}, which gives {type(method).__name__}, expected a "
            "diffkd_jax.Method"
        )
    return method
