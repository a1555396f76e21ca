"""Names of the classes of known data sets, recognised by their labels."""

import hashlib

import numpy as np

FASHION_CLASSES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Boot",
)
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# SHA-256 of all labels of a split in the order of its files, one byte for each. Other
# data sets come in the same files: digits and letters in those of Fashion-MNIST.
_OF_LABELS = {
    "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7": FASHION_CLASSES,
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": FASHION_CLASSES,
    "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253": CIFAR10_CLASSES,
    "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5": CIFAR10_CLASSES,
}


def recognise_class_names(*labels: np.ndarray, classes: int) -> tuple[str, ...]:
    """Returns the names of classes if the labels are those of a known data set.

    Args:
      *labels: integers, labels of each split.
      classes: number of classes.

    Returns:
      The names, or numbers from 0 as text if any of the splits is unknown.

    >>> recognise_class_names(np.array([0, 1]), classes=2)
    ('0', '1')
    """
    candidates = {_OF_LABELS.get(_checksum(label)) for label in labels}
    names = candidates.pop() if len(candidates) == 1 else None
    return names or tuple(str(k) for k in range(classes))


def _checksum(label: np.ndarray) -> str:
    """Returns the SHA-256 of labels, or "" if they do not fit one byte each."""
    # The labels of all data sets in the table are below 256.
    if label.size and (label.min() < 0 or label.max() > 255):
        return ""
    return hashlib.sha256(label.astype(np.uint8).tobytes()).hexdigest()
