"""DiffKD, knowledge diffusion for distillation, in JAX."""

from .core.diffkd import DiffKD, DiffKDNoise, DiffKDOutput
from .core.distances import DISTANCES
from .core.distill import Distillation, Tap, distillation
from .core.platform import compiler_options
from .core.step import TrainState, diffkd_step, init_state

__version__ = "0.2.0"

__all__ = [
    "DISTANCES",
    "DiffKD",
    "DiffKDNoise",
    "DiffKDOutput",
    "Distillation",
    "Tap",
    "TrainState",
    "compiler_options",
    "diffkd_step",
    "distillation",
    "init_state",
]
