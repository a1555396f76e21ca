"""Normalisation and checks of the images that are given to a model."""

import logging
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .inputs import Meta

LOG = logging.getLogger(__name__)

# NumPy or JAX, [b, h, w, c]. Other arrays are converted, and other shapes refused.
Images: TypeAlias = np.ndarray | jax.Array

# Factor of the largest value of a normalised image above which values are logged.
FAR = 4.0


def normalise_images(images: Images, meta: Meta) -> Images:
    """Normalises images by a model's mean and std: ``(images / 255 - mean) / std``.

    Args:
      images: ``[b, h, w, c]``, integers from 0 to 255.
      meta: description of the model.

    Returns:
      float32 ``[b, h, w, c]``, of NumPy or of JAX as ``images`` were.

    Raises:
      ValueError: the model does not know its mean and std, or the images have another
        type or shape.

    >>> meta = {"mean": [0.5], "std": [0.5]}
    >>> normalise_images(np.full((1, 1, 2, 1), 255, np.uint8), meta).ravel().tolist()
    [1.0, 1.0]
    """
    if not meta.get("mean"):
        raise ValueError(
            "images: found a model that does not say its mean and std, expected an "
            "export that does; normalise by data.mean and data.std of its run: "
            "(images / 255 - mean) / std"
        )
    images = _as_array(images)
    if not jnp.issubdtype(images.dtype, jnp.integer):
        raise ValueError(
            f"images: found {images.dtype}, expected uint8 of 0 to 255; images that "
            "are normalised already are given to the model itself"
        )
    _check_shape(images, meta)
    least, largest = _extremes(images)
    if least < 0 or largest > 255:
        raise ValueError(
            f"images: found {images.dtype} of {least} to {largest}, expected values of "
            "0 to 255; scale them first"
        )
    std = np.asarray(meta["std"], np.float32)
    scale, shift = 1.0 / (255.0 * std), np.asarray(meta["mean"], np.float32) / std
    return images.astype(np.float32) * scale.astype(np.float32) - shift


def check_images(images: Images, meta: Meta) -> Images:
    """Checks images before they are given to a model, and returns them as an array.

    Values that are unlikely for normalised images are logged as a warning.

    Args:
      images: ``[b, h, w, c]``, floating point, normalised.
      meta: description of the model.

    Raises:
      ValueError: another type, another number of axes, or other channels.

    >>> check_images(np.zeros((1, 8, 8, 3)), {"input_shape": [8, 8, 3]}).shape
    (1, 8, 8, 3)
    """
    images = _as_array(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images: found {images.dtype}, expected floating point, normalised; "
            + _advice(meta)
        )
    _check_shape(images, meta)
    if fault := _range_fault(images, meta):
        LOG.warning("images: %s; %s", fault, _advice(meta))
    return images


def check_size(images: Images, meta: Meta, outputs: PyTree) -> None:
    """Raises an error if images have another size than a classifier was evaluated on.

    Networks that return maps or boxes take any size.

    Args:
      images: ``[b, h, w, c]``.
      meta: description of the model.
      outputs: outputs of the model for these images; None if the model raised an error,
        for which the size is then taken as the reason.

    Raises:
      ValueError: the images have another size, and the model is a classifier or raised
        an error.

    >>> check_size(np.zeros((1, 8, 8, 3)), {"input_shape": [8, 8, 3]}, None)
    """
    if "input_shape" not in meta or (outputs is not None and not meta.get("mean")):
        return  # only a description with a mean is sure to state the size of training
    size, expected = tuple(images.shape[1:3]), tuple(meta["input_shape"][:2])
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if size != expected and (outputs is None or getattr(logits, "ndim", 0) == 2):
        raise ValueError(
            f"images: found {size[0]}x{size[1]} pixels, expected "
            f"{expected[0]}x{expected[1]}, on which the model was evaluated; "
            "resize them, or take model.infer(model.variables, {'image': images}), "
            "which checks nothing"
        )


def _as_array(images: Any) -> Images:
    """Converts images to a NumPy array unless they are an array already."""
    is_array = isinstance(images, np.ndarray | jax.Array)
    return images if is_array else np.asarray(images)


def _check_shape(images: Images, meta: Meta) -> None:
    """Raises an error if the images have other axes or channels than the model's."""
    if "input_shape" not in meta:
        return
    shape, (h, w, c) = tuple(images.shape), meta["input_shape"]
    fault = f"images: found the shape {shape}, expected [b, {h}, {w}, {c}]"
    if len(shape) != 4:
        advice = ""
        if len(shape) == 3 and c == 1 and shape[2] != 1:
            advice = "; images[..., None] has an axis of channels"
        elif len(shape) == 3:
            advice = "; images[None] is a batch of one"
        raise ValueError(f"{fault}{advice}")
    if shape[3] != c and shape[1] == c:
        raise ValueError(
            f"{fault}: channels come last; images.transpose(0, 2, 3, 1) moves them"
        )
    if shape[3] != c:
        raise ValueError(f"{fault}: {c} channels")


def _advice(meta: Meta) -> str:
    """Returns how to normalise images for a model."""
    if meta.get("mean"):
        return "model(model.normalise(images)) takes uint8 images of 0 to 255"
    return "(images / 255 - mean) / std, by data.mean and data.std of its run"


def _range_fault(images: Images, meta: Meta) -> str:
    """Returns why values are unlikely for normalised images, or "".

    The values of a traced array are unknown, so it returns "" for one.
    """
    pairs = list(zip(meta.get("mean") or (), meta.get("std") or (), strict=True))
    if not pairs or isinstance(images, jax.core.Tracer) or not images.size:
        return ""
    limit = max(max(mean, 1 - mean) / std for mean, std in pairs)
    darkest = max(-mean / std for mean, std in pairs)
    least, largest = float(images.min()), float(images.max())
    if max(-least, largest) > FAR * limit:
        return (
            f"found values of {least:.4g} to {largest:.4g}, where those of normalised "
            f"images are within {limit:.3g} of 0"
        )
    if darkest < -0.5 and least >= 0 and 0.5 < largest <= 1:
        return "found values of 0 to 1, as those of images that are not normalised"
    return ""


def _extremes(images: Images) -> tuple[int, int]:
    """Returns the smallest and the largest value; zeros if traced or empty."""
    if isinstance(images, jax.core.Tracer) or not images.size:
        return 0, 0
    return int(images.min()), int(images.max())
