"""Configs: their fields, the recipes that set them, and the files they come from."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .defaults import base, cifar, parse_argument, shrink

__all__ = ["base", "cifar", "parse_argument", "shrink"]

# Imported when asked for, so that the command line answers before JAX is there.
_HOMES = {
    "base": "defaults",
    "cifar": "defaults",
    "parse_argument": "defaults",
    "shrink": "defaults",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
