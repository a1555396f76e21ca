"""Accuracy of exported students on the Fashion-MNIST that is not embedded."""

import jax
import numpy as np

from diffkd_jax.data.sources.arrays import load_idx
from diffkd_jax.data.transforms.normalise import normalise
from diffkd_jax.weights.files import load_model


def unseen_pictures(directory):
    """The official test pictures after the first 200 of each class, normalised.

    Args:
      directory: of the four idx files.
    """
    split = load_idx(directory).splits["test"]
    everything = split.fetch(np.arange(split.size))
    label = everything["target"]["label"]
    rest = np.concatenate([np.flatnonzero(label == k)[200:] for k in range(10)])
    image = normalise(everything["image"][rest], [0.2860], [0.3530])
    return image, label[rest]


def accuracy(workdir, pictures):
    """Of the student of a workdir, on ``(image, label)``, 8 batches of one size."""
    image, label = pictures
    model = load_model(workdir)
    forward = jax.jit(lambda x: model(x)["logits"].argmax(-1))
    found = [np.asarray(forward(part)) for part in np.split(image, 8)]
    return float((np.concatenate(found) == label).mean())
