"""DiffKD, knowledge diffusion for distillation, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend.compiler import compiler_options
    from .core.diffkd import DiffKD
    from .core.diffkd_output import DiffKDNoise, DiffKDOutput
    from .core.distances import DISTANCES
    from .core.distill import Distillation, distillation
    from .core.gradients import compare_gradients
    from .core.step import diffkd_step
    from .core.taps import Projection, Refined, Tap
    from .core.train_state import TrainState, init_state
    from .methods import Method

__version__ = "0.4.0"

__all__ = [
    "DISTANCES",
    "DiffKD",
    "DiffKDNoise",
    "DiffKDOutput",
    "Distillation",
    "Method",
    "Projection",
    "Refined",
    "Tap",
    "TrainState",
    "compare_gradients",
    "compiler_options",
    "diffkd_step",
    "distillation",
    "init_state",
]

# Imported when asked for, so that the command line answers before JAX is there.
_HOMES = {
    "DISTANCES": "core.distances",
    "DiffKD": "core.diffkd",
    "DiffKDNoise": "core.diffkd_output",
    "DiffKDOutput": "core.diffkd_output",
    "Distillation": "core.distill",
    "Method": "methods",
    "Projection": "core.taps",
    "Refined": "core.taps",
    "Tap": "core.taps",
    "TrainState": "core.train_state",
    "compare_gradients": "core.gradients",
    "compiler_options": "backend.compiler",
    "diffkd_step": "core.step",
    "distillation": "core.distill",
    "init_state": "core.train_state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
