"""Augmentation of uint8 pictures on the host, and their normalisation."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ...config.data import Data as Options
from ..images.decoding import ImageLike, UnreadableImage, decode_image
from . import boxes as boxed
from . import dense
from .crops import center_crop, crop_flip, random_resized_crop
from .draws import Draws
from .randaugment import color_jitter, rand_augment


def normalise(image, mean: Sequence[float], std: Sequence[float]):
    """``(image / 255 - mean) / std`` in float32, per channel.

    Args:
      image: uint8 ``[n, h, w, c]``, an array of numpy or of JAX.
      mean: one number, or one a channel, on the scale 0 to 1.
      std: likewise, positive.

    >>> float(normalise(np.full((1, 1, 1, 1), 255, np.uint8), [0.5], [0.25]).item())
    2.0
    """
    scale = 1.0 / (255.0 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    return image.astype(np.float32) * scale.astype(np.float32) - shift


def make_normalise(data: Options, channels: int) -> Callable:
    """``[n, h, w, channels]`` uint8 to float32, of numpy or JAX: for the device.

    Grey pictures become RGB where ``data.channels`` asks for it.

    Raises:
      ValueError: a mean or std of another number of channels, or pictures that cannot
        become RGB.
    """
    if data.channels and channels not in (1, 3):
        raise ValueError(
            f"data.channels: found {data.channels} for pictures of {channels} "
            "channels, expected 0 to keep them"
        )
    repeats = data.channels // channels if data.channels else 1
    for field in ("mean", "std"):
        if (count := len(getattr(data, field))) not in (1, channels * repeats):
            raise ValueError(
                f"data.{field}: found {count} numbers for pictures of "
                f"{channels * repeats} channels, expected 1 or {channels * repeats}"
            )
    return lambda image: normalise(image.repeat(repeats, -1), data.mean, data.std)


def without_padding(image, size):
    """Zeros outside ``size``, of normalised pictures: that is what padding is.

    Args:
      image: ``[n, h, w, c]``, an array of numpy or of JAX.
      size: int ``[n, 2]``, height and width of what is picture.

    >>> without_padding(np.ones((1, 2, 3, 1)), np.array([[1, 2]]))[0, ..., 0]
    array([[1., 1., 0.],
           [0., 0., 0.]])
    """
    _, height, width, _ = image.shape
    rows = (np.arange(height) < size[:, :1])[:, :, None, None]
    columns = (np.arange(width) < size[:, 1:])[:, None, :, None]
    return image * (rows & columns)


def train_transform(data: Options) -> Callable[[dict, Draws], dict]:
    """Augmentation by ``data.augment``.

    Then RandAugment and colour jitter, where they are on. Pictures stay uint8; the
    result has ``failed``, bool ``[n]``, true where a file does not decode. Batches with
    masks or boxes go to :func:`diffkd_jax.data.transforms.dense.draw_views`.

    Raises:
      ValueError: pictures of different sizes without resizing.
    """
    in_turn = data.augment == "resized_crop" or data.rand_augment or data.color_jitter

    def transform(batch, draws):
        if dense.has_masks(batch):
            dense.check_masked(data)
            return dense.draw_views(batch, draws, data)
        if boxed.has_boxes(batch):
            boxed.check_boxed(data)
            return dense.draw_views(batch, draws, data)
        # Dear for small pictures, which are shifted and mirrored all at once.
        rngs = draws.generators() if in_turn else []
        given = batch["image"]
        if data.augment == "resized_crop":
            crop = partial(
                random_resized_crop,
                size=data.image_size,
                flip=data.flip,
                interpolation=data.interpolation,
                exact=data.exact_crops,
            )
            image, failed = _each(batch["image"], crop, data.image_size, rngs)
        elif data.augment in ("scale_crop_flip", "resize_flip"):
            batch = dense.draw_views(batch, draws, data)
            image, failed = batch["image"], batch["failed"]
        else:
            image, failed = _same_size(batch["image"], data, data.image_size)
        if failed.all():
            return batch | {"image": image, "failed": failed}
        if data.augment == "crop_flip":
            drawn = draws.uniform(3)
            image = crop_flip(image, drawn, padding=data.padding, flip=data.flip)
        changes: list[Callable] = []
        if data.rand_augment:
            augment = partial(
                rand_augment,
                magnitude=data.rand_augment,
                std=data.rand_augment_std,
                # Grey pictures may have a mean for the RGB that they become later.
                mean=data.mean
                if image.shape[-1] == 3
                else (float(np.mean(data.mean)),),
            )
            changes.append(augment)
        if data.color_jitter:
            changes.append(partial(color_jitter, strength=data.color_jitter))
        if changes:
            # In place but for the split's own: a second batch has to be mapped anew
            # each time, which is dear in a worker process.
            image = image.copy() if image is given else image
            for x, rng in zip(image, rngs, strict=True):
                for change in changes:
                    x[...] = change(x, rng)
        return batch | {"image": image, "failed": failed}

    return transform


def eval_transform(data: Options) -> Callable[[dict], dict]:
    """Resize and centre crop to ``data.eval_size``, or ``data.image_size``.

    The shorter side becomes ``data.resize`` before, where that is set. Pictures stay
    uint8; ``failed`` as of :func:`train_transform`. Batches with masks or boxes, and
    all where ``data.canvas`` is set, go to
    :func:`diffkd_jax.data.transforms.dense.pad_images`.

    Raises:
      ValueError: pictures of different sizes without resizing.
    """

    def transform(batch):
        if masked := dense.has_masks(batch):
            dense.check_masked(data)
        if boxes := boxed.has_boxes(batch):
            boxed.check_boxed(data)
        if masked or boxes or data.canvas:
            return dense.pad_images(batch, data)
        size = data.eval_size or data.image_size
        image, failed = _same_size(batch["image"], data, size)
        return batch | {"image": image, "failed": failed}

    return transform


def _each(
    pictures: Sequence[ImageLike],
    crop: Callable[..., np.ndarray],
    size: int,
    *each: Sequence[np.random.Generator],
) -> tuple[np.ndarray, np.ndarray]:
    """Every picture cropped, and which ones could not be; those are black.

    ``crop`` takes the picture and what ``each`` hold for it.
    """
    first = pictures[0]
    channels = first.shape[-1] if isinstance(first, np.ndarray) else first.channels
    crops = np.zeros((len(pictures), size, size, channels), np.uint8)
    failed = np.zeros(len(pictures), bool)
    for i, given in enumerate(zip(pictures, *each, strict=True)):
        try:
            crops[i] = crop(*given)
        except UnreadableImage:
            failed[i] = True
    return crops, failed


def _same_size(images, data: Options, size: int) -> tuple[np.ndarray, np.ndarray]:
    if size:
        crop = partial(
            center_crop,
            size=size,
            resize=data.resize or size,
            interpolation=data.interpolation,
        )
        return _each(images, crop, size)
    if isinstance(images, np.ndarray):
        return images, np.zeros(len(images), bool)
    found: list[np.ndarray | None] = []
    for image in images:
        try:
            found.append(decode_image(image))
        except UnreadableImage:
            found.append(None)
    shapes = {image.shape for image in found if image is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"data.image_size: found 0 for pictures of sizes {sorted(shapes)[:4]}, "
            "expected a size in pixels to resize them to"
        )
    # Where nothing decodes no size is known: a batch of empty pictures.
    black = np.zeros(shapes.pop() if shapes else (0, 0, 3), np.uint8)
    failed = np.array([image is None for image in found])
    return np.stack([black if image is None else image for image in found]), failed
