"""What images a model takes: their normalisation, their channels and their size."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LOG = logging.getLogger(__name__)
TOLERANCE = 1e-3  # of mean and std: people round them differently
FAR = 4.0  # times the largest value that a normalised image can have
ORDERS = {1: "L", 3: "RGB"}  # of the channels that our readers give, by their number


def input_of(meta: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Returns the part of a model's description that says how images are normalised.

    Args:
      meta: of data or of a model: ``mean`` and ``std`` on the scale 0 to 1, one number
        or one a channel, and ``channel_order``, where they are known.
      channels: of an image.

    Returns:
      ``mean`` and ``std``, a list of one number a channel, and ``channel_order``; empty
      where they are not known.

    >>> input_of({"mean": (0.5,), "std": (0.25,)}, 3)["mean"]
    [0.5, 0.5, 0.5]
    """
    mean, std = ([float(v) for v in meta.get(name) or ()] for name in ("mean", "std"))
    if not (mean and std):
        return {"mean": [], "std": [], "channel_order": ""}
    order = meta.get("channel_order") or ORDERS.get(channels, "")
    widened = lambda values: values * channels if len(values) == 1 else values
    return {"mean": widened(mean), "std": widened(std), "channel_order": order}


def input_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Returns in words how a model's images differ from a run's, "" if they do not.

    The size is not compared. What either side does not know is not compared.

    Args:
      found: description of the model.
      expected: description of a model for the data of the run.
    """
    channels, wanted = (meta["input_shape"][-1] for meta in (found, expected))
    if channels != wanted:
        return (
            f"found a model for images of {channels} channels, expected {wanted}, "
            "those of the data; data.channels=3 makes RGB of grey images"
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
    found: Mapping[str, Any],
    expected: Mapping[str, Any],
    is_classifier: Callable[[], bool],
) -> None:
    """Refuses a model that was trained on other images than those of a run.

    Another size is a warning for networks that give maps or boxes: they are trained on
    crops and used on whole images.

    Args:
      source: where the model is from, for messages.
      found: description of the model.
      expected: description of a model for the data of the run.
      is_classifier: returns whether it gives one vector of logits an image.

    Raises:
      ValueError: other channels, another mean or std, or for a classifier another size.
    """
    if difference := input_difference(found, expected):
        raise ValueError(f"{source}: {difference}")
    sizes = [list(meta["input_shape"][:2]) for meta in (found, expected)]
    if not found.get("mean") or sizes[0] == sizes[1]:  # else its size is a note
        return
    (height, width), data_size = sizes[0], "x".join(map(str, sizes[1]))
    text = f"found a model for images of {height}x{width}"
    if is_classifier():
        raise ValueError(
            f"{source}: {text}, expected {data_size}, those of the data; with its own "
            f"size the flags are --config.data.image_size={height} and data.resize"
        )
    LOG.warning("%s: %s, those of the data are %s", source, text, data_size)


def normalised(images: Any, meta: Mapping[str, Any]) -> Any:
    """Returns ``(images / 255 - mean) / std`` in float32, by a model's own values.

    Args:
      images: whole numbers of 0 to 255 ``[b, h, w, c]``, as image readers give them.
      meta: description of the model.

    Raises:
      ValueError: the model does not know its values, or images of another type or
        shape.
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


def check_images(images: Any, meta: Mapping[str, Any]) -> Any:
    """Returns images as an array, if they may be what a model takes.

    Args:
      images: normalised ``[b, h, w, c]``, floating point.
      meta: description of the model.

    Raises:
      ValueError: another type, another number of axes, or other channels.
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


def check_size(images: Any, meta: Mapping[str, Any], outputs: Any) -> None:
    """Refuses images of another size than a classifier was trained for.

    Networks that give maps or boxes take any size.

    Args:
      images: ``[b, h, w, c]``.
      meta: description of the model.
      outputs: of the model for them, or None if it gave none.

    Raises:
      ValueError: they have another size.
    """
    if "input_shape" not in meta or (outputs is not None and not meta.get("mean")):
        return  # the size is a note there
    size, expected = tuple(images.shape[1:3]), tuple(meta["input_shape"][:2])
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if size != expected and (outputs is None or getattr(logits, "ndim", 0) == 2):
        raise ValueError(
            f"images: found {size[0]}x{size[1]} pixels, expected "
            f"{expected[0]}x{expected[1]}, for which the model was trained; resize "
            "them, or take model.infer(model.variables, {'image': images}), which "
            "checks nothing"
        )


def _as_array(images: Any) -> Any:
    is_array = isinstance(images, np.ndarray | jax.Array)
    return images if is_array else np.asarray(images)


def _check_shape(images: Any, meta: Mapping[str, Any]) -> None:
    if "input_shape" not in meta:
        return
    shape, (h, w, c) = tuple(images.shape), meta["input_shape"]
    found = f"images: found the shape {shape}, expected [b, {h}, {w}, {c}]"
    if len(shape) != 4:
        advice = ""
        if len(shape) == 3 and c == 1 and shape[2] != 1:
            advice = "; images[..., None] has an axis of channels"
        elif len(shape) == 3:
            advice = "; images[None] is a batch of one"
        raise ValueError(f"{found}{advice}")
    if shape[3] != c and shape[1] == c:
        raise ValueError(
            f"{found}: channels come last; images.transpose(0, 2, 3, 1) moves them"
        )
    if shape[3] != c:
        raise ValueError(f"{found}: {c} channels")


def _advice(meta: Mapping[str, Any]) -> str:
    if meta.get("mean"):
        return "model(model.normalise(images)) takes uint8 images of 0 to 255"
    return "(images / 255 - mean) / std, by data.mean and data.std of its run"


def _range_fault(images: Any, meta: Mapping[str, Any]) -> str:
    """Why values can hardly be those of normalised images, "" if they may be.

    Values of a traced array are not known.
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


def _extremes(images: Any) -> tuple[int, int]:
    """Returns the least and the largest value, 0 while they are traced and unknown."""
    if isinstance(images, jax.core.Tracer) or not images.size:
        return 0, 0
    return int(images.min()), int(images.max())


def _shown(values: Sequence[float]) -> str:
    """A tuple as a flag takes it; equal numbers are one.

    >>> _shown([0.5, 0.5, 0.5]), _shown([0.485, 0.456, 0.406])
    ('(0.5,)', '(0.485, 0.456, 0.406)')
    """
    rounded = tuple(float(f"{value:.6g}") for value in values)
    return str(rounded[:1] if len(set(rounded)) == 1 else rounded)
