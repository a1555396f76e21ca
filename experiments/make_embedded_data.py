"""Makes ``diffkd_jax/data/embedded/fashion_mnist.npz`` from the full data set.

The first 800 training and 200 test pictures of each class, in the order of the
original files (Debian package ``dataset-fashion-mnist``)::

    python experiments/make_embedded_data.py /usr/share/datasets/fashion-mnist
"""

import pathlib
import sys

import numpy as np

from diffkd_jax.data.sources.arrays import load_idx


def main(directory: str) -> None:
    data = load_idx(directory)
    arrays = {}
    for name, per_class in (("train", 800), ("test", 200)):
        everything = data.splits[name].fetch(np.arange(data.splits[name].size))
        label = everything["target"]["label"]
        chosen = [np.flatnonzero(label == k)[:per_class] for k in range(10)]
        rows = np.sort(np.concatenate(chosen))
        arrays[f"{name}/image"] = everything["image"][rows]
        arrays[f"{name}/label"] = label[rows].astype(np.uint8)
    target = pathlib.Path(__file__).parents[1] / "diffkd_jax/data/embedded"
    np.savez_compressed(target / "fashion_mnist.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
