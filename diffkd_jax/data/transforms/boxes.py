"""Boxes that follow their pictures through the transforms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...config.data import Data as Options
from . import views
from .views import Size, View

Target = dict[str, np.ndarray]


def has_boxes(batch: Mapping[str, Any]) -> bool:
    """Whether the target of a batch holds boxes.

    >>> has_boxes({"target": {"label": np.zeros(2)}})
    False
    """
    return "boxes" in batch.get("target", {})


def check_boxed(data: Options) -> None:
    """Refuses what is for pictures with one class each.

    Args:
      data: section ``data`` of a config.

    Raises:
      ValueError: names the field.
    """
    of_boxes = "for pictures with boxes"
    side = "data.resize is the shorter side"
    check_views(
        data,
        of_boxes,
        ("resize_flip", "scale_crop_flip"),
        {"image_size": side, "eval_size": side},
    )
    if data.augment != "resize_flip" and data.resize:
        raise ValueError(
            f"data.resize: found {data.resize}, expected 0 {of_boxes} and data.augment "
            f"{data.augment!r}: training would see them at their own size; or "
            "data.augment 'resize_flip'"
        )


def check_views(
    data: Options, what: str, augments: Sequence[str], instead: Mapping[str, str]
) -> None:
    """Refuses augmentation that a mask or boxes could not follow.

    Args:
      data: section ``data`` of a config.
      what: what it is for, for messages.
      augments: those that move both, the usual one first; "none" and mirroring do too.
      instead: further fields that are to be 0, and what is in place of them, or "".

    Raises:
      ValueError: names the field.
    """
    if data.augment not in ("none", "crop_flip", *augments):
        *first, last = map(repr, ("none", *augments))
        raise ValueError(
            f"data.augment: found {data.augment!r}, expected {', '.join(first)} or "
            f"{last} {what}"
        )
    if data.augment == "crop_flip" and data.padding:
        raise ValueError(
            f"data.padding: found {data.padding}, expected 0 {what}, or "
            f"data.augment {augments[0]!r}"
        )
    for field, text in {"rand_augment": "", "color_jitter": "", **instead}.items():
        if value := getattr(data, field):
            raise ValueError(
                f"data.{field}: found {value}, expected 0 {what}{text and f': {text}'}"
            )


def to_train_on(
    target: Target, seen: Sequence[tuple[View, Size] | None], most: int
) -> Target:
    """The boxes of a batch as its views show them.

    Left out are those that are ignored, and those of which less than a pixel is left
    on either side. Of more than ``most``, the largest are kept, the first of equals.

    Args:
      target: of a split, see :func:`diffkd_jax.data.images.objects.padded`.
      seen: by example the view and the size of its picture; None for one that failed.
      most: rows of the result, fewer where the target has fewer.

    Returns:
      ``boxes`` float32 ``[n, rows, 4]``, ``classes`` int32 and ``valid`` bool
      ``[n, rows]``.
    """
    rows = min(most, target["valid"].shape[1])
    shape = len(seen), rows
    result = {
        "boxes": np.zeros((*shape, 4), np.float32),
        "classes": np.zeros(shape, np.int32),
        "valid": np.zeros(shape, bool),
    }
    for i, one in enumerate(seen):
        if one is None:
            continue
        boxes = views.see_boxes(one[0], target["boxes"][i], one[1])
        sides = boxes[:, 2:] - boxes[:, :2]
        usable = target["valid"][i] & ~target["ignored"][i] & (sides >= 1).all(1)
        kept = np.flatnonzero(usable)
        if len(kept) > rows:
            order = np.argsort(-sides[kept].prod(1), kind="stable")[:rows]
            kept = kept[np.sort(order)]
        result["boxes"][i, : len(kept)] = boxes[kept]
        result["valid"][i, : len(kept)] = True
        result["classes"][i, : len(kept)] = target["classes"][i, kept]
    return result


def to_evaluate(target: Target, seen: Sequence[tuple[View, Size] | None]) -> Target:
    """The boxes of a batch, none left out, and how to get back to the picture's pixels.

    Args:
      target: of a split.
      seen: as of :func:`to_train_on`, of views of whole pictures.

    Returns:
      As of the split, ``boxes`` in pixels of the canvas, and ``stored``, float32
      ``[n, m, 4]``, in those of the stored picture; ``scale`` float32 ``[n, 2]``,
      pixels of the canvas for one of the picture, down and right; ``stored_size``
      int32 ``[n, 2]``, height and width.
    """
    stored = target["boxes"]
    boxes = np.zeros_like(stored)
    scale = np.ones((len(seen), 2), np.float32)
    sizes = np.zeros((len(seen), 2), np.int32)
    for i, one in enumerate(seen):
        if one is not None:
            boxes[i] = views.see_boxes(one[0], stored[i], one[1])
            scale[i], sizes[i] = views.factors(*one), one[1]
    added = {"stored": stored, "scale": scale, "stored_size": sizes}
    return {**target, "boxes": boxes, **added}
