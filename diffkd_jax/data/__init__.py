"""Pictures and their targets: data sets, and what a run takes of them."""

from .dataset import Data, open_data
from .decoding import Encoded
from .masks import EncodedMask, MaskRule
from .sources import DATASETS
from .split import Dataset, Split
from .stand_in import known_target, stand_in

__all__ = [
    "DATASETS",
    "Data",
    "Dataset",
    "Encoded",
    "EncodedMask",
    "MaskRule",
    "Split",
    "known_target",
    "open_data",
    "stand_in",
]
