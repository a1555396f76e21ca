"""Images and their targets: data sets, and the part of them that a run uses."""

from .dataset import Data, open_data
from .images.encoded import Encoded
from .images.mask_rules import MaskRule
from .images.masks import EncodedMask
from .sources.registry import DATASETS
from .split import Dataset, Split
from .stand_in import stand_in, target_ranks

__all__ = [
    "DATASETS",
    "Data",
    "Dataset",
    "Encoded",
    "EncodedMask",
    "MaskRule",
    "Split",
    "open_data",
    "stand_in",
    "target_ranks",
]
