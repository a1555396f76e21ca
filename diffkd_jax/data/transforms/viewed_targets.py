"""Targets that follow the view of their image, and the augmentation they allow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...config.augmentations import AUGMENTATIONS
from ...config.data import DataConfig
from .target import TargetTransform
from .viewed import Follow, evaluate_views, train_views


def follow_views(
    name: str,
    is_of: Callable[[Mapping[str, Any]], bool],
    train: Follow,
    evaluate: Follow | None = None,
) -> TargetTransform:
    """Creates the transform of a kind of target that follows the view of its image.

    Args:
      name: plural noun for messages, such as ``keypoints``.
      is_of: ``target -> bool``, whether a target is of this kind.
      train: ``(target, example_views, size) -> target``. There is one
        :class:`~diffkd_jax.data.transforms.viewed.ExampleView` for each example, or
        None for an image that does not decode. ``size`` is height and width of the
        batch's images.
      evaluate: the same for evaluation, where views show whole images; ``train`` by
        default.

    Returns:
      A transform for :class:`diffkd_jax.data.Dataset`.

    >>> import numpy as np
    >>> from diffkd_jax.data.transforms import views
    >>> def move(target, example_views, size):
    ...     points = [s and views.view_points(s.view, p[None], s.size)[0]
    ...               for s, p in zip(example_views, target["point"])]
    ...     return {"point": np.array(points, np.float32)}
    >>> transform = follow_views("keypoints", lambda target: "point" in target, move)
    >>> batch = {"image": np.zeros((1, 4, 6, 3), np.uint8),
    ...          "target": {"point": np.array([[1.0, 2.0]])}}
    >>> transform.evaluate(batch, DataConfig(canvas=(8, 8)))["target"]["point"].tolist()
    [[1.0, 2.0]]
    """
    follow = evaluate or train
    return TargetTransform(
        name,
        is_of,
        lambda batch, draws, options: train_views(batch, draws, options, train),
        lambda batch, options: evaluate_views(batch, options, follow),
        lambda options: check_views(options, f"for images with {name}"),
    )


def check_views(
    options: DataConfig,
    purpose: str,
    augments: Sequence[str] = ("scale_crop_flip", "resize_flip"),
    instead: Mapping[str, str] = {},
) -> None:
    """Refuses augmentation that a target could not follow.

    Args:
      options: the section ``data`` of a config.
      purpose: what the images are for, for messages.
      augments: accepted values of ``data.augment``, the usual one first, in addition to
        "none" and mirroring.
      instead: further fields that must be 0, and what to use instead, or "".

    Raises:
      ValueError: names the field.

    >>> check_views(DataConfig(color_jitter=0.4, padding=0), "for depth maps")
    Traceback (most recent call last):
    ValueError: data.color_jitter: found 0.4, expected 0 for depth maps
    """
    augmentation = AUGMENTATIONS[options.augment]
    if not (augmentation.keeps_size or options.augment in augments):
        *first, last = map(repr, ("none", *augments))
        raise ValueError(
            f"data.augment: found {options.augment!r}, expected {', '.join(first)} or "
            f"{last} {purpose}"
        )
    if augmentation.shifts and options.padding:
        raise ValueError(
            f"data.padding: found {options.padding}, expected 0 {purpose}, or "
            f"data.augment {augments[0]!r}"
        )
    for field, text in {"rand_augment": "", "color_jitter": "", **instead}.items():
        if value := getattr(options, field):
            hint = f": {text}" if text else ""
            raise ValueError(f"data.{field}: found {value}, expected 0 {purpose}{hint}")
