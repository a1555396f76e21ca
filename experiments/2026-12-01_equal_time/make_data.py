"""Makes the data of the study: the embedded training images, and unseen images.

    PYTHONPATH=. python experiments/2026-12-01_equal_time/make_data.py DIRECTORY FILE

``DIRECTORY`` holds the four idx files of Fashion-MNIST (Debian package
``dataset-fashion-mnist``). ``FILE`` is the ``.npz`` file that is written:

* ``train``: the 8,000 embedded training images, 800 of each class;
* ``valid``: 10,000 other official training images, 1,000 of each class. Weights, rates
  and lengths are chosen on them;
* ``test``: the 10,000 official test images, which choose nothing.
"""

import pathlib
import sys

import numpy as np

from diffkd_jax.data.sources.arrays import load_idx

# The part of each class, in the order of the official files.
PARTS = {
    "train": ("train", slice(0, 800)),
    "valid": ("train", slice(800, 1800)),
    "test": ("test", slice(0, 1000)),
}


def main(directory: str, file: str) -> None:
    """Writes the file."""
    splits = load_idx(directory).splits
    arrays = {}
    for name, (official, part) in PARTS.items():
        split = splits[official]
        everything = split.fetch(np.arange(split.size))
        label = everything["target"]["label"]
        rows = [np.flatnonzero(label == k)[part] for k in range(10)]
        rows = np.sort(np.concatenate(rows))
        arrays[f"{name}/image"] = everything["image"][rows]
        arrays[f"{name}/label"] = label[rows].astype(np.uint8)
    pathlib.Path(file).parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
