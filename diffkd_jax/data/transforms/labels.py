"""Augmentation of images with one class each, or with a target that no view changes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...config.augmentations import AUGMENTATIONS
from ...config.data import DataConfig
from ..images.decoding import decode_image
from ..images.encoded import ImageLike, UnreadableImage
from .crops import center_crop, crop_flip, random_resized_crop
from .draws import Draws
from .randaugment import color_jitter, rand_augment
from .target import Batch, TargetTransform
from .viewed import evaluate_views, train_views


def _is_label(target: Mapping[str, Any]) -> bool:
    """Returns True: this transform takes any target, and leaves it unchanged."""
    del target
    return True


def train_labelled(batch: Batch, draws: Draws, options: DataConfig) -> Batch:
    """Augments images by ``data.augment``, then by RandAugment and colour jitter.

    Args:
      batch: a batch of a split.
      draws: source of the randomness.
      options: the section ``data`` of a config.

    Returns:
      The batch with ``image`` uint8 ``[n, h, w, c]``, and ``failed`` bool ``[n]``, true
      for images that do not decode.

    Raises:
      ValueError: images of different sizes without resizing.

    >>> batch = {"image": np.zeros((2, 4, 4, 1), np.uint8), "target": {"label": [0, 1]}}
    >>> options = DataConfig(augment="resized_crop", image_size=3)
    >>> train_labelled(batch, Draws(0, 0, np.arange(2)), options)["image"].shape
    (2, 3, 3, 1)
    """
    augmentation = AUGMENTATIONS[options.augment]
    in_turn = augmentation.crops or options.rand_augment or options.color_jitter
    # A generator for each image would take most of the time of small images, which are
    # shifted and mirrored together.
    rngs = draws.generators() if in_turn else []
    stored = batch["image"]
    if augmentation.crops:
        crop = partial(
            random_resized_crop,
            size=options.image_size,
            flip=options.flip,
            interpolation=options.interpolation,
            exact=options.exact_crops,
        )
        image, failed = _crop_all(stored, crop, options.image_size, rngs)
    elif augmentation.on_canvas:
        batch = train_views(batch, draws, options)
        image, failed = batch["image"], batch["failed"]
    else:
        image, failed = _same_size(stored, options, options.image_size)
    if failed.all():
        return batch | {"image": image, "failed": failed}
    if augmentation.shifts:
        drawn = draws.uniform(3)
        image = crop_flip(image, drawn, padding=options.padding, flip=options.flip)
    changes = _changes(options, image.shape[-1])
    if changes:
        # Images are changed in place, unless the array is that of the split. A second
        # array would be mapped anew for each batch, which is slow in a worker process.
        image = image.copy() if image is stored else image
        for x, rng in zip(image, rngs, strict=True):
            for change in changes:
                x[...] = change(x, rng)
    return batch | {"image": image, "failed": failed}


def _changes(options: DataConfig, channels: int) -> list[Callable[..., np.ndarray]]:
    """Returns the changes of single images, ``(image, rng) -> image``."""
    changes: list[Callable[..., np.ndarray]] = []
    if options.rand_augment:
        # Grey images may have a mean for the RGB that they become later.
        mean = options.mean if channels == 3 else (float(np.mean(options.mean)),)
        changes.append(
            partial(
                rand_augment,
                magnitude=options.rand_augment,
                std=options.rand_augment_std,
                mean=mean,
            )
        )
    if options.color_jitter:
        changes.append(partial(color_jitter, strength=options.color_jitter))
    return changes


def _evaluate_labelled(batch: Batch, options: DataConfig) -> Batch:
    """Resizes and crops the centre to ``data.eval_size``, or ``data.image_size``.

    If ``data.resize`` is set, the shorter side is resized to it first. If
    ``data.canvas`` is set, whole images are padded instead.

    Args:
      batch: a batch of a split.
      options: the section ``data`` of a config.

    Returns:
      The batch as of :func:`train_labelled`.

    Raises:
      ValueError: images of different sizes without resizing.
    """
    if options.canvas:
        return evaluate_views(batch, options)
    size = options.eval_size or options.image_size
    image, failed = _same_size(batch["image"], options, size)
    return batch | {"image": image, "failed": failed}


def _crop_all(
    images: Sequence[ImageLike],
    crop: Callable[..., np.ndarray],
    size: int,
    *arguments: Sequence[Any],
) -> tuple[np.ndarray, np.ndarray]:
    """Crops each image; images that do not decode are black, and marked.

    ``crop`` takes the image, and what each of ``arguments`` holds for it.
    """
    first = images[0]
    channels = first.shape[-1] if isinstance(first, np.ndarray) else first.channels
    crops = np.zeros((len(images), size, size, channels), np.uint8)
    failed = np.zeros(len(images), bool)
    for i, row in enumerate(zip(images, *arguments, strict=True)):
        try:
            crops[i] = crop(*row)
        except UnreadableImage:
            failed[i] = True
    return crops, failed


def _same_size(
    images: Any, options: DataConfig, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes images of one size, or crops them to a size."""
    if size:
        crop = partial(
            center_crop,
            size=size,
            resize=options.resize or size,
            interpolation=options.interpolation,
        )
        return _crop_all(images, crop, size)
    if isinstance(images, np.ndarray):
        return images, np.zeros(len(images), bool)
    decoded: list[np.ndarray | None] = []
    for image in images:
        try:
            decoded.append(decode_image(image))
        except UnreadableImage:
            decoded.append(None)
    shapes = {image.shape for image in decoded if image is not None}
    if len(shapes) > 1:
        raise ValueError(
            f"data.image_size: found 0 for images of sizes {sorted(shapes)[:4]}, "
            "expected a size in pixels to resize them to"
        )
    # If no image decodes, no size is known: the batch has empty images.
    black = np.zeros(shapes.pop() if shapes else (0, 0, 3), np.uint8)
    failed = np.array([image is None for image in decoded])
    return np.stack([black if image is None else image for image in decoded]), failed


LABELS = TargetTransform(
    "labels", _is_label, train_labelled, _evaluate_labelled, own_size=False
)
