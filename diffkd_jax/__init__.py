"""DiffKD, knowledge diffusion for distillation, in JAX."""

from .core.diffkd import DiffKD, DiffKDNoise, DiffKDOutput
from .core.distances import DISTANCES
from .core.distill import Distillation, distillation
from .core.platform import compiler_options
from .core.step import TrainState, diffkd_step, init_state
from .core.taps import Projection, Refined, Tap
from .methods import Method

__version__ = "0.3.0"

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
    "compiler_options",
    "diffkd_step",
    "distillation",
    "init_state",
]
