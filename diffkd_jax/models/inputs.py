"""Checks of the images that a model takes: normalisation, channels and size."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# NumPy or JAX, [b, h, w, c]. Other arrays are converted, and other shapes refused.
Images: TypeAlias = np.ndarray | jax.Array
Meta: TypeAlias = Mapping[str, Any]  # JSON description of a model or of data

LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3  # for mean and std, which are often rounded
# Values this many times the largest one of a normalised image are logged.
FAR = 4.0
# Order of the channels that the readers of this package return, by their number.
ORDERS = {1: "L", 3: "RGB"}


def input_of(meta: Meta, channels: int) -> dict[str, Any]:
    """Returns the part of a model's description that says how images are normalised.

    Args:
      meta: description of data or of a model: ``mean`` and ``std`` on the scale 0 to 1,
        one number for all channels or one for each, and ``channel_order``, if known.
      channels: number of channels of an image.

    Returns:
      ``mean`` and ``std``, lists of one number for each channel, and ``channel_order``.
      All are empty if mean or std is not known.

    >>> input_of({"mean": (0.5,), "std": (0.25,)}, 3)["mean"]
    [0.5, 0.5, 0.5]
    """
    mean, std = ([float(v) for v in meta.get(name) or ()] for name in ("mean", "std"))
    if not (mean and std):
        return {"mean": [], "std": [], "channel_order": ""}
    order = meta.get("channel_order") or ORDERS.get(channels, "")
    widened = lambda values: values * channels if len(values) == 1 else values
    return {"mean": widened(mean), "std": widened(std), "channel_order": order}


def input_difference(found: Meta, expected: Meta) -> str:
    """Describes how a model's images differ from those of a run, or returns "".

    The size is not compared, nor is anything that one of the two does not know.

    Args:
      found: description of the model.
      expected: description of a model for the data of the run.

    >>> images = {"input_shape": [8, 8, 3], "mean": [0.5] * 3, "std": [0.25] * 3}
    >>> images["channel_order"] = "RGB"
    >>> input_difference(images, images)
    ''
    >>> input_difference(images, {**images, "channel_order": "BGR"})[:35]
    'found a model for channels in the o'
    """
    channels, data_channels = (meta["input_shape"][-1] for meta in (found, expected))
    if channels != data_channels:
        return (
            f"found a model for images of {channels} channels, expected "
            f"{data_channels}, those of the data; data.channels=3 makes RGB of grey "
            "images"
        )
    if not (found.get("mean") and expected.get("mean")):
        return ""
    orders = found["channel_order"], expected["channel_order"]
    if all(orders) and orders[0] != orders[1]:
        return (
            f"found a model for channels in the order {orders[0]}, expected "
            f"{orders[1]}, that of the data"
        )
    pairs = [(found[name], expected[name]) for name in ("mean", "std")]
    if all(np.allclose(*pair, rtol=0, atol=TOLERANCE * 1.001) for pair in pairs):
        return ""
    (mean, data_mean), (std, data_std) = (map(_shown, pair) for pair in pairs)
    return (
        f"found a model for images of mean {mean} and std {std}, expected {data_mean} "
        f"and {data_std}, those of data.mean and data.std; with its own values the "
        f'flags are --config.data.mean="{mean}" --config.data.std="{std}"'
    )


def check_input(
    source: str,
    found: Meta,
    expected: Meta,
    is_classifier: Callable[[], bool],
) -> None:
    """Raises an error if a model is for other images than those of a run.

    Sizes are those of evaluation, because a run may train on a smaller size
    (``data.eval_size``). For networks that return maps or boxes, another size is only
    logged as a warning: they are trained on crops and used on whole images.

    Args:
      source: origin of the model, for messages.
      found: description of the model.
      expected: description of a model for the data of the run.
      is_classifier: function that returns whether the model returns one vector of
        logits for each image.

    Raises:
      ValueError: other channels, another mean or std, or another size for a classifier.

    >>> images = {"input_shape": [8, 8, 3], "mean": [0.5] * 3, "std": [0.25] * 3}
    >>> images["channel_order"] = "RGB"
    >>> check_input("teacher", images, images, lambda: True)
    """
    if difference := input_difference(found, expected):
        raise ValueError(f"{source}: {difference}")
    sizes = [list(meta["input_shape"][:2]) for meta in (found, expected)]
    # Without a mean, the size is only a note.
    if not found.get("mean") or sizes[0] == sizes[1]:
        return
    (height, width), data_size = sizes[0], "x".join(map(str, sizes[1]))
    text = f"found a model for images of {height}x{width}"
    if is_classifier():
        raise ValueError(
            f"{source}: {text}, expected {data_size}, those of the data; with its own "
            f"size the flags are --config.data.image_size={height} and data.resize"
        )
    LOG.warning("%s: %s, those of the data are %s", source, text, data_size)


def normalised(images: Images, meta: Meta) -> Images:
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
    >>> normalised(np.full((1, 1, 2, 1), 255, np.uint8), meta).ravel().tolist()
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
    """Returns images as an array if a model may take them.

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
      outputs: outputs of the model for these images, or None if it raised an error.

    Raises:
      ValueError: the images have another size.

    >>> check_size(np.zeros((1, 8, 8, 3)), {"input_shape": [8, 8, 3]}, None)
    """
    if "input_shape" not in meta or (outputs is not None and not meta.get("mean")):
        return  # without a mean, the size is only a note
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

    Values of a traced array are unknown; for them it returns "".
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
    """Returns the smallest and the largest value, or zeros for a traced array."""
    if isinstance(images, jax.core.Tracer) or not images.size:
        return 0, 0
    return int(images.min()), int(images.max())


def _shown(values: Sequence[float]) -> str:
    """Returns a tuple as a flag takes it, and a single number if all are equal.

    >>> _shown([0.5, 0.5, 0.5]), _shown([0.485, 0.456, 0.406])
    ('(0.5,)', '(0.485, 0.456, 0.406)')
    """
    rounded = tuple(float(f"{value:.6g}") for value in values)
    return str(rounded[:1] if len(set(rounded)) == 1 else rounded)
