"""Normalisation of uint8 images to what models take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...config.data import DataConfig


def normalise(image: Any, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Computes ``(image / 255 - mean) / std`` in float32 for each channel.

    Args:
      image: uint8 ``[n, h, w, c]``, an array of NumPy or of JAX.
      mean: one number, or one for each channel, on the scale 0 to 1.
      std: the same, positive.

    >>> float(normalise(np.full((1, 1, 1, 1), 255, np.uint8), [0.5], [0.25]).item())
    2.0
    """
    scale = 1.0 / (255.0 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    return image.astype(np.float32) * scale.astype(np.float32) - shift


def make_image_normaliser(options: DataConfig, channels: int) -> Callable[[Any], Any]:
    """Returns the function from uint8 ``[n, h, w, channels]`` to normalised float32.

    The function takes arrays of NumPy or of JAX, so it can run on the device. Grey
    images become RGB if ``data.channels`` is 3.

    Args:
      options: the section ``data`` of a config.
      channels: number of channels of a stored image.

    Raises:
      ValueError: mean or std have another number of channels, or images cannot become
        RGB.

    >>> options = DataConfig(mean=(0.5,), std=(0.5,), channels=3)
    >>> normalise_image = make_image_normaliser(options, 1)
    >>> normalise_image(np.zeros((1, 2, 2, 1), np.uint8)).shape
    (1, 2, 2, 3)
    """
    if options.channels and channels not in (1, 3):
        raise ValueError(
            f"data.channels: found {options.channels} for images of {channels} "
            "channels, expected 0 to keep them"
        )
    repeats = options.channels // channels if options.channels else 1
    for field in ("mean", "std"):
        if (count := len(getattr(options, field))) not in (1, channels * repeats):
            raise ValueError(
                f"data.{field}: found {count} numbers for images of "
                f"{channels * repeats} channels, expected 1 or {channels * repeats}"
            )
    return lambda image: normalise(image.repeat(repeats, -1), options.mean, options.std)


def make_batch_normaliser(
    options: DataConfig, channels: int
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Returns the function that normalises the images of a batch.

    Padding is zero afterwards, if the batch holds ``size``.

    Args:
      options: the section ``data`` of a config.
      channels: number of channels of a stored image.

    >>> normalise_batch = make_batch_normaliser(DataConfig(std=(0.5,)), 1)
    >>> image, size = np.full((1, 1, 2, 1), 255, np.uint8), np.array([[1, 1]])
    >>> normalise_batch({"image": image, "size": size})["image"].ravel().tolist()
    [2.0, 0.0]
    """
    function = make_image_normaliser(options, channels)

    def normalised(batch: Mapping[str, Any]) -> dict[str, Any]:
        image = function(batch["image"])
        if "size" in batch:
            image = _clear_padding(image, batch["size"])
        return {**batch, "image": image}

    return normalised


def _clear_padding(image: Any, size: Any) -> Any:
    """Sets the padding of normalised images to zero.

    Args:
      image: ``[n, h, w, c]``, an array of NumPy or of JAX.
      size: int ``[n, 2]``, height and width without padding.

    >>> _clear_padding(np.ones((1, 2, 3, 1)), np.array([[1, 2]]))[0, ..., 0]
    array([[1., 1., 0.],
           [0., 0., 0.]])
    """
    _, height, width, _ = image.shape
    rows = (np.arange(height) < size[:, :1])[:, :, None, None]
    columns = (np.arange(width) < size[:, 1:])[:, None, :, None]
    return image * (rows & columns)
