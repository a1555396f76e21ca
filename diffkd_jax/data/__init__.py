"""Pictures and their targets: data sets, and what a run takes of them."""

from .dataset import Data, open_data
from .decoding import Encoded
from .sources import DATASETS
from .split import Dataset, Split

__all__ = ["DATASETS", "Data", "Dataset", "Encoded", "Split", "open_data"]
