"""The CIFAR networks of ``diffkd_jax.models`` as Keras layers, for ``vs_keras.py``.

A layer has the path of ours as its name, with "-" between, so that variables can be
copied by name.
"""

from collections.abc import Mapping

import keras
import numpy as np
from flax.traverse_util import flatten_dict
from keras import layers

# Ours to Keras's, where they differ.
NAMES = {
    "scale": "gamma",
    "bias": "bias",
    "mean": "moving_mean",
    "var": "moving_variance",
}


class Passed(layers.Layer):
    """The first of its inputs: the others become part of the network too."""

    def call(self, inputs):
        return inputs[0]


def convolve(x, name, channels, size, stride=1, bias=False):
    padding = "same"
    if stride > 1 and size > 1:  # Keras pads one side alone, PyTorch and ours both
        x, padding = layers.ZeroPadding2D(size // 2)(x), "valid"
    layer = layers.Conv2D(channels, size, stride, padding, use_bias=bias, name=name)
    return layer(x)


def normalise(x, name):
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def conv_norm(x, name, channels, size, stride=1):
    return normalise(
        convolve(x, f"{name}-conv", channels, size, stride), f"{name}-norm"
    )


def relu(x, name=None):
    return layers.Activation("relu", name=name)(x)


def cifar_resnet(depth, widths=(16, 16, 32, 64)):
    """From images to ``features``, as our ``cifar_resnet``."""
    picture = keras.Input((32, 32, 3))
    x = relu(conv_norm(picture, "stem", widths[0], 3))
    count = (depth - 2) // 6
    for i, channels in enumerate(widths[1:], 1):
        for j in range(count):
            name, stride = f"stage{i}-block{j}", 2 if i > 1 and j == 0 else 1
            y = relu(conv_norm(x, f"{name}-conv0", channels, 3, stride))
            y = conv_norm(y, f"{name}-conv1", channels, 3)
            if x.shape[-1] != channels or stride != 1:
                x = conv_norm(x, f"{name}-shortcut", channels, 1, stride)
            last = i == 3 and j == count - 1
            x = relu(layers.Add()([x, y]), "features" if last else None)
    return picture, x


def wide_resnet(depth, width):
    """From pictures to ``features``, as ``diffkd_jax.models.backbones.wrn``."""
    picture = keras.Input((32, 32, 3))
    x = convolve(picture, "stem", 16, 3)
    for i, channels in enumerate((16 * width, 32 * width, 64 * width), 1):
        for j in range((depth - 4) // 6):
            name, stride = f"stage{i}_block{j}", 2 if i > 1 and j == 0 else 1
            active = relu(normalise(x, f"{name}-norm"))
            y = relu(conv_norm(active, f"{name}-conv0", channels, 3, stride))
            y = convolve(y, f"{name}-conv1", channels, 3)
            if x.shape[-1] != channels:
                x = convolve(active, f"{name}-shortcut", channels, 1, stride)
            x = layers.Add()([x, y])
    return picture, relu(normalise(x, "last_norm"), "features")


BUILDERS = {
    "wrn_40_2": lambda: wide_resnet(40, 2),
    "wrn_40_1": lambda: wide_resnet(40, 1),
    "resnet56": lambda: cifar_resnet(56),
    "resnet20": lambda: cifar_resnet(20),
}


def network(model: str, classes: int, project: int = 0) -> keras.Model:
    """A classifier; with a projection of its features to so many channels, or none."""
    picture, features = BUILDERS[model]()
    pooled = layers.GlobalAveragePooling2D()(features)
    logits = layers.Dense(classes, name="head")(pooled)
    if project:
        projected = convolve(features, "projection", project, 1, bias=True)
        logits = Passed()([logits, projected])
    return keras.Model(picture, logits, name=model)


def copy_variables(model: keras.Model, variables: Mapping) -> int:
    """Fills a network with ours; returns how many numbers it now has.

    Raises:
      ValueError: a variable that is not there, or one of ours that is.
    """
    ours = {}
    for (_, *path, kind), value in flatten_dict(dict(variables)).items():
        of_norm = path[-1].endswith("norm")
        name = "beta" if of_norm and kind == "bias" else NAMES.get(kind, kind)
        ours["-".join(path), name] = np.asarray(value)
    theirs = {
        (layer.name, v.name): v for layer in model.layers for v in layer.variables
    }
    if ours.keys() != theirs.keys():
        found = sorted(ours.keys() ^ theirs.keys())[:4]
        raise ValueError(f"{model.name}: found {found} on one side, expected on both")
    for name, variable in theirs.items():
        variable.assign(ours[name])  # refuses another shape
    return sum(value.size for value in ours.values())
