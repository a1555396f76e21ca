"""Descriptions of the images that a model takes, and checks of them against a run."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Meta: TypeAlias = Mapping[str, Any]  # JSON description of a model or of data

LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3  # for mean and std, which are often rounded
# Order of the channels that the readers of this package return, by their number.
ORDERS = {1: "L", 3: "RGB"}


def describe_input(meta: Meta, channels: int) -> dict[str, Any]:
    """Returns the part of a model's description that says how images are normalised.

    Args:
      meta: description of data or of a model: ``mean`` and ``std`` on the scale 0 to 1,
        one number for all channels or one for each, and ``channel_order``, if known.
      channels: number of channels of an image.

    Returns:
      ``mean`` and ``std``, lists of one number for each channel, and ``channel_order``,
      a text such as "RGB". If the mean or std is not known, the lists are empty and the
      text is "".

    >>> describe_input({"mean": (0.5,), "std": (0.25,)}, 3)["mean"]
    [0.5, 0.5, 0.5]
    """
    mean, std = ([float(v) for v in meta.get(name) or ()] for name in ("mean", "std"))
    if not (mean and std):
        return {"mean": [], "std": [], "channel_order": ""}
    order = meta.get("channel_order") or ORDERS.get(channels, "")
    widened = lambda values: values * channels if len(values) == 1 else values
    return {"mean": widened(mean), "std": widened(std), "channel_order": order}


def input_difference(model: Meta, run: Meta) -> str:
    """Describes how a model's images differ from those of a run, or returns "".

    Channels, mean, std and channel order are compared. A value that one of the two
    descriptions lacks is not compared, and neither is the size.

    Args:
      model: description of the model.
      run: description of a model for the data of the run.

    >>> images = {"input_shape": [8, 8, 3], "mean": [0.5] * 3, "std": [0.25] * 3}
    >>> images["channel_order"] = "RGB"
    >>> input_difference(images, images)
    ''
    >>> input_difference(images, {**images, "channel_order": "BGR"})[:35]
    'found a model for channels in the o'
    """
    channels, data_channels = (meta["input_shape"][-1] for meta in (model, run))
    if channels != data_channels:
        return (
            f"found a model for images of {channels} channels, expected "
            f"{data_channels}, those of the data; data.channels=3 makes RGB of grey "
            "images"
        )
    if not (model.get("mean") and run.get("mean")):
        return ""
    orders = model["channel_order"], run["channel_order"]
    if all(orders) and orders[0] != orders[1]:
        return (
            f"found a model for channels in the order {orders[0]}, expected "
            f"{orders[1]}, that of the data"
        )
    pairs = [(model[name], run[name]) for name in ("mean", "std")]
    if all(np.allclose(*pair, rtol=0, atol=TOLERANCE * 1.001) for pair in pairs):
        return ""
    (mean, data_mean), (std, data_std) = (map(_flag_value, pair) for pair in pairs)
    return (
        f"found a model for images of mean {mean} and std {std}, expected {data_mean} "
        f"and {data_std}, those of data.mean and data.std; with its own values the "
        f'flags are --config.data.mean="{mean}" --config.data.std="{std}"'
    )


def check_input(
    source: str,
    model: Meta,
    run: Meta,
    is_classifier: Callable[[], bool],
) -> None:
    """Raises an error if a model is for other images than those of a run.

    Sizes are those of evaluation, because a run may train on a smaller size
    (``data.eval_size``). For networks that return maps or boxes, another size is only
    logged as a warning: they are trained on crops and used on whole images.

    Args:
      source: origin of the model, for messages.
      model: description of the model.
      run: description of a model for the data of the run.
      is_classifier: function that returns whether the model returns one vector of
        logits for each image.

    Raises:
      ValueError: other channels, another mean or std, or another size for a classifier.

    >>> images = {"input_shape": [8, 8, 3], "mean": [0.5] * 3, "std": [0.25] * 3}
    >>> images["channel_order"] = "RGB"
    >>> check_input("teacher", images, images, lambda: True)
    """
    if difference := input_difference(model, run):
        raise ValueError(f"{source}: {difference}")
    sizes = [list(meta["input_shape"][:2]) for meta in (model, run)]
    # A description without a mean may state any size.
    if not model.get("mean") or sizes[0] == sizes[1]:
        return
    (height, width), data_size = sizes[0], "x".join(map(str, sizes[1]))
    text = f"found a model for images of {height}x{width}"
    if is_classifier():
        raise ValueError(
            f"{source}: {text}, expected {data_size}, those of the data; with its own "
            f"size the flags are --config.data.image_size={height} and data.resize"
        )
    LOG.warning("%s: %s, those of the data are %s", source, text, data_size)


def _flag_value(values: Sequence[float]) -> str:
    """Returns the text of a tuple as a flag takes it; equal numbers stand there once.

    >>> _flag_value([0.5, 0.5, 0.5]), _flag_value([0.485, 0.456, 0.406])
    ('(0.5,)', '(0.485, 0.456, 0.406)')
    """
    rounded = tuple(float(f"{value:.6g}") for value in values)
    return str(rounded[:1] if len(set(rounded)) == 1 else rounded)
